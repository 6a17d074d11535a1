// unimem.hpp: owners, containers and exceptions.
#include <cmath>
#include <complex>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"
#include "unimem.hpp"
#include "unimem/tree_tensor_network.hpp"

namespace {

// Whether a call throws an E.
template <class E, class Call>
bool throws(Call call) {
    try {
        call();
    } catch (const E &) {
        return true;
    } catch (...) {
    }
    return false;
}

void owners() {
    unimem::instance memory;
    {
        auto numbers = memory.allocate<double>(1000);
        CHECK("an array has its size", numbers.size() == 1000 && memory.stats().total_allocated == 8000);
        CHECK("it is aligned to 64", reinterpret_cast<std::uintptr_t>(numbers.data()) % 64 == 0);
        std::iota(numbers.begin(), numbers.end(), 0.0);
        auto moved = std::move(numbers);
        CHECK("a moved array leaves nothing behind", numbers.empty() && !numbers.data() && moved[999] == 999.0);
        moved.resize(100000);
        CHECK("resize keeps what there was", moved.size() == 100000 && moved[999] == 999.0);
        numbers = std::move(moved);
        CHECK_EQ("moving back frees nothing", memory.stats().total_allocated, 800000);
        auto other = memory.allocate<double>(10);
        numbers = std::move(other);
        CHECK_EQ("assignment frees what was owned", memory.stats().total_allocated, 80);
        double *raw = numbers.release();
        numbers.reset();
        CHECK("a released block is the caller's", raw && unimem_owns(raw));
        memory->free(raw);
        struct alignas(256) wide {
            char bytes[256];
        };
        CHECK("alignments of types are honoured",
              reinterpret_cast<std::uintptr_t>(memory.allocate<wide>(3).data()) % 256 == 0);
        auto tensor = memory.tensor<std::complex<float>>({3, 4, 5});
        unimem_layout_t layout;
        CHECK("a tensor has a layout", tensor.size() == 60 && unimem_layout(tensor.data(), &layout) &&
                                           layout.num_dims == 3 && layout.strides[0] == 20);
        CHECK("nothing is allocated for no elements", memory.allocate<int>(0).empty());
    }
    CHECK_EQ("all of it is freed", memory.stats().total_allocated, 0);
    unimem::instance second(std::move(memory));
    CHECK("an instance moves", !memory.get() && second.get());
    auto kept = second.allocate<char>(10).release();
    CHECK("close tells of what is live", kept && !second.close());
    CHECK("a second close does nothing", second.close());
}

void failures() {
    unimem::instance memory(unimem::config().max_size(8u << 20));
    CHECK("want of memory is a bad_alloc", throws<std::bad_alloc>([&] { memory.allocate<char>(64u << 20); }));
    CHECK("it says more", throws<unimem::out_of_memory>([&] { memory.allocate<char>(64u << 20); }));
    CHECK("a number of bytes that overflows, too",
          throws<std::bad_array_new_length>([&] { memory.allocate<double>(SIZE_MAX / 4); }));
    bool told = false;
    try {
        memory.allocate<char>(1, 3);
    } catch (const unimem::error &error) {
        told = error.code() == UNIMEM_ERROR_INVALID_ARGUMENT && *error.what();
    }
    CHECK("an alignment of 3 is an error with code and message", told);
    CHECK("so is an impossible instance", throws<unimem::error>([] {
              unimem::instance impossible(unimem::config().tolerance(std::nan("")));
          }));
    unimem::instance plain(unimem::config().streaming(false));
    CHECK("so is streaming where there is none", throws<unimem::error>([&] { plain.streaming<char>(1 << 20); }));
    unimem::array<int> nothing;
    CHECK("an array without an instance cannot grow", throws<unimem::error>([&] { nothing.resize(5); }));
    auto array = memory.allocate<int>(1000);
    array[999] = 7;
    CHECK("a resize that fails", throws<std::bad_alloc>([&] { array.resize(64u << 20); }));
    CHECK("also one beyond all memory", throws<std::bad_alloc>([&] { array.resize(std::size_t{1} << 56); }));
    CHECK("... changes nothing", array.size() == 1000 && array[999] == 7);
    std::vector<int, unimem::allocator<int>> numbers(10, 1, memory);
    CHECK("a vector that cannot grow", throws<std::bad_alloc>([&] { numbers.resize(64u << 20); }));
    CHECK("... stays as it is", numbers.size() == 10 && numbers[9] == 1);
    unimem::memory_resource resource(memory);
    std::pmr::vector<int> others(&resource);
    CHECK("so with a resource", throws<std::bad_alloc>([&] { others.resize(64u << 20); }) && others.empty());
}

void containers() {
    unimem::instance memory;
    {
        std::vector<int, unimem::allocator<int>> numbers(memory);
        for (int i = 0; i < 100000; i++) numbers.push_back(i);
        CHECK("a vector grows", std::accumulate(numbers.begin(), numbers.end(), 0LL) == 4999950000LL);
        CHECK("its elements are the instance's", memory.stats().total_allocated >= 400000);
        auto copy = numbers;
        std::vector<int, unimem::allocator<int>> moved(std::move(copy));
        CHECK("copies and moves stay there", moved == numbers && moved.get_allocator() == numbers.get_allocator());

        using pair = std::pair<const std::string, int>;
        std::map<std::string, int, std::less<>, unimem::allocator<pair>> names{unimem::allocator<pair>(memory)};
        for (int i = 0; i < 1000; i++) names[std::to_string(i)] = i;
        for (int i = 0; i < 1000; i += 2) names.erase(std::to_string(i));
        CHECK("a map", names.size() == 500 && names.at("777") == 777);
        std::list<int, unimem::allocator<int>> list({3, 1, 2}, memory);
        list.sort();
        CHECK("a list", list.front() == 1 && list.back() == 3);
        std::deque<int, unimem::allocator<int>> deque(1000, 5, memory);
        CHECK("a deque", deque.size() == 1000 && deque.back() == 5);
        auto shared = std::allocate_shared<int>(unimem::allocator<int>(memory), 42);
        CHECK("allocate_shared", *shared == 42 && unimem_owns(shared.get()));

        unimem::memory_resource resource(memory), same(memory);
        unimem::instance elsewhere;
        unimem::memory_resource different(elsewhere);
        CHECK("resources of one instance are equal",
              resource == same && resource != different && resource != *std::pmr::new_delete_resource());
        std::pmr::unordered_map<int, std::pmr::string> texts(&resource);
        for (int i = 0; i < 1000; i++) texts.emplace(i, std::string(100, static_cast<char>('a' + i % 26)));
        CHECK("a pmr map hands its resource on", unimem_owns(texts.at(27).data()) && texts.at(27)[99] == 'b');
        std::pmr::monotonic_buffer_resource arena(&resource);
        std::pmr::vector<std::pmr::string> in_arena(&arena);
        for (int i = 0; i < 100; i++) in_arena.emplace_back(100, 'x');
        CHECK("a standard resource on top of ours", unimem_owns(in_arena.back().data()));

        std::thread worker([&] {
            std::vector<int, unimem::allocator<int>> mine(memory);
            mine.assign(10000, 1);
            numbers.swap(mine); // what was allocated here is freed there
        });
        worker.join();
        CHECK("containers cross threads", numbers.size() == 10000);
    }
    CHECK_EQ("containers give all back", memory.stats().total_allocated, 0);
    CHECK_EQ("no free was refused", unimem_refused_frees(memory), 0);
    unimem::allocator<int> global;
    CHECK("without an instance: the global one", global.get() == unimem_global());
}

void chunks() {
    unimem::instance memory(unimem::config().max_size(4u << 20).chunk_size(64u << 10));
    const std::size_t count = (16u << 20) / sizeof(float) + 5;
    auto weights = memory.streaming<float>(count);
    const std::size_t chunks = unimem_chunk_count(weights.data());
    std::size_t at = 0;
    for (std::size_t i = 0; i < chunks; i++)
        for (float &weight : unimem::overwrite_chunk(weights, i)) weight = static_cast<float>(at++ % 1000);
    CHECK_EQ("the chunks are the whole array", at, count);
    bool right = true;
    const auto &constant = weights;
    at = 0;
    for (std::size_t i = 0; i < chunks; i++)
        for (float weight : unimem::read_chunk(constant, i)) right &= weight == static_cast<float>(at++ % 1000);
    CHECK("every element comes back", right && at == count);
    {
        auto pin = unimem::write_chunk(weights, 3);
        auto moved = std::move(pin);
        moved[0] = -1;
        CHECK("a pinned chunk has the place it has", moved.data() == &weights[3 * moved.size()]);
    }
    CHECK("a pin ends with its owner", !unimem_chunk_release(weights.data(), 3));
    CHECK("there is no chunk past the end", throws<unimem::error>([&] { unimem::read_chunk(weights, chunks); }));
    auto plain = memory.allocate<float>(10);
    CHECK("plain memory has no chunks", throws<unimem::error>([&] { unimem::read_chunk(plain, 0); }));
    auto rough = memory.hierarchical<float>(1000, 1e-3);
    CHECK("hierarchical memory is zeroed", rough[0] == 0.0f && rough[999] == 0.0f);
}

void trees() {
    unimem::instance memory;
    {
        unimem::tree_network network(memory);
        const ComplexFloat left[] = {{1, 0}, {2, 0}, {3, 0}, {4, 0}};
        const ComplexFloat right[] = {{5, 0}, {6, 0}, {7, 0}, {8, 0}};
        auto *root = network.add(left, {2, 2});
        auto *child = network.add(right, {2, 2});
        network.connect(root, 1, child, 0);
        auto product = network.contract();
        CHECK("a contraction has its dimensions", product.dimensions == std::vector<std::size_t>({2, 2}));
        CHECK("and its elements", product.elements[0].real == 19 && product.elements[3].real == 50);
        CHECK("a pair gives a node", network.contract(root, child)->data[1].real == 22);
        CHECK("a second connection is refused", throws<unimem::error>([&] { network.connect(root, 1, child, 0); }));
        CHECK("the instance holds the tensors", memory.stats().total_allocated > 0);
        unimem::tree_network moved(std::move(network));
        CHECK("a network moves", !network.get() && moved.get()->num_nodes == 3);
    }
    CHECK("a network ends with its owner", memory.close());
}

// Functions of the program that throw where they must not.
struct stray {};
void log_throws(int, const char *, void *) { throw stray(); }
void leak_throws(const unimem_leak_t *, void *) { throw stray(); }
bool progress_throws(double, double, void *) { throw stray(); }
void *allocate_throws(std::size_t, std::size_t) { throw stray(); }
void free_throws(void *) { throw stray(); }

// Whether a call ends the program by SIGABRT, as it must where an exception would pass through the library.
template <class Call>
bool aborts(Call call) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        if (!std::freopen("/dev/null", "w", stderr)) _exit(1);
        alarm(20);
        try {
            call();
        } catch (const stray &) {
            _exit(2);
        }
        _exit(3);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

void exceptions() {
    unimem::instance memory;
    auto numbers = memory.allocate<int>(10);
    CHECK("an exception of a leak callback does not pass",
          aborts([&] { unimem_report_leaks(memory.get(), leak_throws, nullptr); }));
    CHECK("nor of a log callback", aborts([&] {
              unimem_set_log(log_throws, nullptr);
              memory.get()->free(&memory);
          }));
    CHECK("nor at close", aborts([&] {
              unimem_set_log(log_throws, nullptr);
              unimem_close(memory.get());
          }));
    unimem::tree_network network(memory);
    auto *root = network.add(nullptr, {200, 200}), *child = network.add(nullptr, {200, 200});
    network.connect(root, 1, child, 0);
    CHECK("nor of a progress callback", aborts([&] {
              unimem_set_progress(network.get(), progress_throws, nullptr);
              network.contract();
          }));
    unified_memory_interface_t own = {};
    own.allocate = allocate_throws, own.free = free_throws;
    CHECK("nor of a network's own memory", aborts([&] {
              network.get()->memory = &own;
              network.add(nullptr, {2, 2});
          }));
    CHECK("the library goes on", network.contract(root, child) != nullptr);
}

} // namespace

int main() {
    exceptions();
    owners();
    failures();
    containers();
    chunks();
    trees();
    return tap_done();
}
