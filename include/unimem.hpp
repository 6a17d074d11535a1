/* unimem.hpp - unimem.h for C++17: owners that free what they hold, and memory for containers. Header only.
 *
 *   unimem::instance memory(unimem::config().max_size(512u << 20));
 *   auto weights = memory.streaming<float>(std::size_t{1} << 34);            // larger than RAM, zeroed, freed by itself
 *   unimem::memory_resource resource(memory);
 *   std::pmr::vector<int> numbers(&resource);
 *
 * Errors: a lack of memory throws std::bad_alloc (unimem::out_of_memory, which has a message); every other failure
 * throws unimem::error. Destructors never throw.
 *
 * Threads: as for the containers of the standard library, one thread at a time may use an object. Instances,
 * resources and allocators may be used by any number of threads at once. */
#ifndef UNIMEM_HPP
#define UNIMEM_HPP

#include <cstddef>
#include <initializer_list>
#include <limits>
#include <memory_resource>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "unimem.h"

namespace unimem {

/** A call failed, but not for lack of memory. */
class error : public std::runtime_error {
public:
    error(unimem_error_t code, const std::string &message) : std::runtime_error(message), code_(code) {}
    /** The reason, as in unimem.h. */
    unimem_error_t code() const noexcept { return code_; }

private:
    unimem_error_t code_;
};

/** There is no memory left, in the system or in the instance's budget. */
class out_of_memory : public std::bad_alloc {
public:
    explicit out_of_memory(const std::string &message) : message_(message) {}
    const char *what() const noexcept override { return message_.what(); }

private:
    std::runtime_error message_; /* can be copied without throwing */
};

/** Throws the calling thread's last error. */
[[noreturn]] inline void throw_last_error() {
    if (unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY) throw out_of_memory(unimem_last_error_message());
    throw error(unimem_last_error(), unimem_last_error_message());
}

/** The configuration of an instance; see unified_pool_config_t. Growth and streaming are on unless they are switched
 * off. */
class config {
public:
    config() noexcept : values_() { values_.enable_growth = values_.enable_streaming = true; }
    config &initial_size(std::size_t bytes) noexcept { return values_.initial_size = bytes, *this; }
    config &max_size(std::size_t bytes) noexcept { return values_.max_size = bytes, *this; }
    config &growth(bool on) noexcept { return values_.enable_growth = on, *this; }
    config &geometric(bool on) noexcept { return values_.use_geometric_layout = on, *this; }
    config &streaming(bool on) noexcept { return values_.enable_streaming = on, *this; }
    config &chunk_size(std::size_t bytes) noexcept { return values_.chunk_size = bytes, *this; }
    config &tolerance(double absolute) noexcept { return values_.compression_tolerance = absolute, *this; }
    const unified_pool_config_t *get() const noexcept { return &values_; }

private:
    unified_pool_config_t values_;
};

/** Whether a type may be in library memory. No constructor and no destructor is run there. */
template <class T>
inline constexpr bool is_plain = std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T> &&
                                 !std::is_const_v<T> && !std::is_volatile_v<T>;

/** Owns a block of `size()` elements, and frees it in its destructor. It can be moved but not copied. It must not
 * outlive its instance. */
template <class T>
class array {
    static_assert(is_plain<T>, "no constructor or destructor is run on the elements");

public:
    using value_type = T;
    array() noexcept = default;
    /** Takes over a block that `memory` allocated. */
    array(unified_memory_interface_t *memory, T *data, std::size_t size) noexcept
        : memory_(memory), data_(data), size_(size) {}
    array(array &&other) noexcept
        : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    array &operator=(array &&other) noexcept {
        if (this != &other) {
            reset();
            memory_ = other.memory_;
            data_ = std::exchange(other.data_, nullptr);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    array(const array &) = delete;
    array &operator=(const array &) = delete;
    ~array() { reset(); }

    T *data() noexcept { return data_; }
    const T *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    T &operator[](std::size_t i) noexcept { return data_[i]; }
    const T &operator[](std::size_t i) const noexcept { return data_[i]; }
    T *begin() noexcept { return data_; }
    T *end() noexcept { return data_ + size_; }
    const T *begin() const noexcept { return data_; }
    const T *end() const noexcept { return data_ + size_; }

    /** Frees the block now. */
    void reset() noexcept {
        if (data_) memory_->free(data_);
        data_ = nullptr;
        size_ = 0;
    }
    /** Gives the block up. The caller has to free it. */
    T *release() noexcept {
        size_ = 0;
        return std::exchange(data_, nullptr);
    }
    /** Changes the number of elements. Contents, alignment and kind stay. If it throws, nothing has changed. */
    void resize(std::size_t count) {
        if (count == 0) return reset();
        if (!memory_) throw error(UNIMEM_ERROR_INVALID_ARGUMENT, "an array without an instance cannot grow");
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_array_new_length();
        void *moved = memory_->realloc(data_, count * sizeof(T));
        if (!moved) throw_last_error();
        data_ = static_cast<T *>(moved);
        size_ = count;
    }

private:
    unified_memory_interface_t *memory_ = nullptr;
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

/** Owns an instance, and closes it in its destructor, which frees all that is live in it. It can be moved but not
 * copied. */
class instance {
public:
    /** Opens an instance. */
    explicit instance(const config &configuration = config()) : memory_(unimem_open(configuration.get())) {
        if (!memory_) throw_last_error();
    }
    instance(instance &&other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}
    instance &operator=(instance &&other) noexcept {
        if (this != &other) {
            close();
            memory_ = std::exchange(other.memory_, nullptr);
        }
        return *this;
    }
    instance(const instance &) = delete;
    instance &operator=(const instance &) = delete;
    ~instance() { close(); }

    /** Closes the instance now. False if anything was live in it; the log then says what. Nothing may be asked of it
     * afterwards, or of one that was moved from. */
    bool close() noexcept { return !memory_ || unimem_close(std::exchange(memory_, nullptr)); }
    unified_memory_interface_t *get() const noexcept { return memory_; }
    unified_memory_interface_t *operator->() const noexcept { return memory_; }
    operator unified_memory_interface_t *() const noexcept { return memory_; }

    /** Allocates `count` elements, which are not initialised. Alignment 0 means 64 bytes. */
    template <class T>
    array<T> allocate(std::size_t count, std::size_t alignment = 0) const {
        if (alignment == 0 && alignof(T) > 64) alignment = alignof(T);
        return own<T>(count, [&](std::size_t bytes) { return memory_->allocate(bytes, alignment); });
    }
    /** Allocates `count` zeroed elements that may be larger than RAM. Every byte comes back as it was written. Chunk
     * size 0 means the configured one. */
    template <class T>
    array<T> streaming(std::size_t count, std::size_t chunk_size = 0) const {
        return own<T>(count, [&](std::size_t bytes) { return memory_->allocate_streaming(bytes, chunk_size); });
    }
    /** Allocates `count` zeroed elements that may be compressed. They consist of float32, each of which comes back
     * within `tolerance` (an absolute error). */
    template <class T>
    array<T> hierarchical(std::size_t count, double tolerance) const {
        return own<T>(count, [&](std::size_t bytes) { return memory_->allocate_hierarchical(bytes, tolerance); });
    }
    /** Allocates a dense row-major tensor, which is not initialised. */
    template <class T>
    array<T> tensor(std::initializer_list<std::size_t> dimensions) const {
        void *block = unimem_allocate_tensor(memory_, dimensions.begin(), dimensions.size(), sizeof(T));
        if (!block) throw_last_error();
        return array<T>(memory_, static_cast<T *>(block), unimem_usable_size(block) / sizeof(T));
    }
    /** Returns the statistics of the instance. */
    memory_stats_t stats() const noexcept {
        memory_stats_t stats = memory_stats_t();
        memory_->get_stats(&stats);
        return stats;
    }

private:
    template <class T, class Allocate>
    array<T> own(std::size_t count, Allocate allocate) const {
        if (count == 0) return array<T>(memory_, nullptr, 0);
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_array_new_length();
        void *block = allocate(count * sizeof(T));
        if (!block) throw_last_error();
        return array<T>(memory_, static_cast<T *>(block), count);
    }
    unified_memory_interface_t *memory_;
};

/** A chunk of streaming or hierarchical memory that stays in place while this lives. No access to it faults, and it
 * may be given to system calls. */
template <class T>
class chunk_pin {
    static_assert(is_plain<std::remove_const_t<T>>, "no constructor or destructor is run on the elements");

public:
    /** Pins chunk `index` of the memory that starts at `memory`. The chunk size must be a multiple of the element
     * size. */
    chunk_pin(T *memory, std::size_t index, unimem_access_t access) : memory_(unqualified(memory)), index_(index) {
        const std::size_t chunk = unimem_chunk_size(memory_);
        if (chunk % sizeof(T) != 0)
            throw error(UNIMEM_ERROR_INVALID_ARGUMENT, "an element lies in two chunks");
        void *start = unimem_chunk_acquire(memory_, index, access);
        if (!start) throw_last_error();
        data_ = static_cast<T *>(start);
        const std::size_t rest = unimem_usable_size(memory_) - index * chunk;
        size_ = (rest < chunk ? rest : chunk) / sizeof(T);
    }
    chunk_pin(chunk_pin &&other) noexcept
        : memory_(std::exchange(other.memory_, nullptr)), index_(other.index_), data_(other.data_), size_(other.size_) {}
    chunk_pin &operator=(chunk_pin &&other) noexcept {
        chunk_pin moved(std::move(other));
        std::swap(memory_, moved.memory_);
        std::swap(index_, moved.index_);
        std::swap(data_, moved.data_);
        std::swap(size_, moved.size_);
        return *this;
    }
    chunk_pin(const chunk_pin &) = delete;
    chunk_pin &operator=(const chunk_pin &) = delete;
    ~chunk_pin() {
        if (memory_) unimem_chunk_release(memory_, index_);
    }

    T *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    T &operator[](std::size_t i) const noexcept { return data_[i]; }
    T *begin() const noexcept { return data_; }
    T *end() const noexcept { return data_ + size_; }

private:
    static void *unqualified(T *memory) noexcept { return const_cast<std::remove_const_t<T> *>(memory); }
    void *memory_;
    std::size_t index_;
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

/** Pins a chunk for reading. */
template <class T>
chunk_pin<const T> read_chunk(const array<T> &memory, std::size_t index) {
    return chunk_pin<const T>(memory.data(), index, UNIMEM_READ);
}
/** Pins a chunk for reading and writing. */
template <class T>
chunk_pin<T> write_chunk(array<T> &memory, std::size_t index) {
    return chunk_pin<T>(memory.data(), index, UNIMEM_WRITE);
}
/** Pins a chunk that will be overwritten as a whole. Its old contents are not brought in. */
template <class T>
chunk_pin<T> overwrite_chunk(array<T> &memory, std::size_t index) {
    return chunk_pin<T>(memory.data(), index, UNIMEM_OVERWRITE);
}

/** An interface as a std::pmr::memory_resource. The interface must outlive the resource, and the resource its
 * containers. */
class memory_resource : public std::pmr::memory_resource {
public:
    explicit memory_resource(unified_memory_interface_t *memory) noexcept : memory_(memory) {}
    memory_resource(const memory_resource &) = default;
    memory_resource &operator=(const memory_resource &) = default;
    unified_memory_interface_t *get() const noexcept { return memory_; }

private:
    void *do_allocate(std::size_t bytes, std::size_t alignment) override {
        void *block = memory_->allocate(bytes ? bytes : 1, alignment);
        if (!block) throw_last_error();
        return block;
    }
    void do_deallocate(void *block, std::size_t, std::size_t) override { memory_->free(block); }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
        const auto *same = dynamic_cast<const memory_resource *>(&other);
        return same && same->memory_ == memory_;
    }
    unified_memory_interface_t *memory_;
};

/** An interface as a standard allocator; by default the global interface. A container that is moved, swapped or
 * assigned passes its allocator on with its contents. */
template <class T>
class allocator {
public:
    using value_type = T;
    using propagate_on_container_copy_assignment = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;
    using propagate_on_container_swap = std::true_type;
    using is_always_equal = std::false_type;

    allocator() : memory_(unimem_global()) {
        if (!memory_) throw_last_error();
    }
    allocator(unified_memory_interface_t *memory) noexcept : memory_(memory) {}
    allocator(const instance &memory) noexcept : memory_(memory.get()) {}
    template <class U>
    allocator(const allocator<U> &other) noexcept : memory_(other.get()) {}

    T *allocate(std::size_t count) {
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) throw std::bad_array_new_length();
        void *block = memory_->allocate(count ? count * sizeof(T) : 1, alignof(T));
        if (!block) throw_last_error();
        return static_cast<T *>(block);
    }
    void deallocate(T *block, std::size_t) noexcept { memory_->free(block); }
    unified_memory_interface_t *get() const noexcept { return memory_; }

    template <class U>
    friend bool operator==(const allocator &a, const allocator<U> &b) noexcept {
        return a.get() == b.get();
    }
    template <class U>
    friend bool operator!=(const allocator &a, const allocator<U> &b) noexcept {
        return a.get() != b.get();
    }

private:
    unified_memory_interface_t *memory_;
};

} // namespace unimem

#endif // UNIMEM_HPP
