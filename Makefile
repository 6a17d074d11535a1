# unimem: `make` builds, `make demo` runs the main job, `make test` tests, `make install PREFIX=... DESTDIR=...` installs,
# `make deb` and `make dist` make packages.
PREFIX     ?= /usr/local
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR     ?= $(PREFIX)/bin
DOCDIR     ?= $(PREFIX)/share/doc/unimem
MANDIR     ?= $(PREFIX)/share/man
DESTDIR    ?=
CARGO      ?= cargo
CC         ?= cc
CXX        ?= c++
LD         ?= ld
OBJCOPY    ?= objcopy
CFLAGS     ?= -O2 -g

# For another processor, with a compiler for it: make CC=aarch64-linux-gnu-gcc CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu
# The linker and the other tools are those that belong to the compiler, unless they are named too.
ifneq ($(CARGO_BUILD_TARGET),)
export CARGO_BUILD_TARGET
LINKER_OF_TARGET := CARGO_TARGET_$(shell echo $(CARGO_BUILD_TARGET) | tr a-z- A-Z_)_LINKER
export $(LINKER_OF_TARGET) ?= $(CC)
of_compiler = $(if $(filter default file undefined,$(origin $1)),$(shell $(CC) -print-prog-name=$2),$($1))
LD := $(call of_compiler,LD,ld)
AR := $(call of_compiler,AR,ar)
OBJCOPY := $(call of_compiler,OBJCOPY,objcopy)
endif

VERSION  := $(shell sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOVERSION := $(firstword $(subst ., ,$(VERSION)))
B        := build
TARGET   := $(or $(CARGO_TARGET_DIR),target)
ARCHIVE  := $(TARGET)/$(if $(CARGO_BUILD_TARGET),$(CARGO_BUILD_TARGET)/)release/libunimem.a
SHARED   := $(B)/libunimem.so.$(VERSION)
# What Rust's standard library asks of the system, but for libgcc and libc: compilers add those by themselves, the static
# ones to a program without shared libraries.
SYSTEM_LIBS := -lpthread -lm -ldl
HEADERS  := $(wildcard include/unimem/*.h include/unimem/*.hpp)
EXAMPLE_FLAGS = -std=c11 -Wall -Wextra -Werror -pedantic $(CFLAGS) -Iinclude

.PHONY: all demo examples test bench header lint clean deps FORCE
all: $(B)/libunimem.so $(B)/libunimem.a $(B)/libunimem-malloc.so $(B)/unimem

# Cargo knows what is stale; the archive's time changes only when it did something. `sudo make install` may find no Cargo: it
# installs what is built.
$(ARCHIVE): FORCE
	@if [ -e $@ ] && ! command -v $(firstword $(CARGO)) >/dev/null; then \
	    echo "there is no $(firstword $(CARGO)): what was built before is taken"; \
	else \
	    $(CARGO) build --quiet --release --locked $(CARGO_OPTIONS) --lib --bins || \
	        { CARGO="$(CARGO)" sh tools/deps.sh rust; exit 1; }; \
	fi
FORCE:

# The exported names, one a line.
$(B)/names: unimem.map
	@mkdir -p $(B)
	@grep -v '^ */*\*' $< | tr ' ;' '\n' | grep -E '^[a-z_0-9]+$$' | sort > $@

# Shared: Cargo's archive linked anew with our names, our soname, and every symbol found at once. Never -Bsymbolic, and
# no version of names: a legacy C file in the program must take the place of ours.
$(SHARED): $(ARCHIVE) unimem.map
	@mkdir -p $(B)
	@echo "  LINK $@"
	@$(CC) $(LDFLAGS) -shared -o $@ -Wl,--gc-sections -Wl,--whole-archive $(ARCHIVE) -Wl,--no-whole-archive \
	    -Wl,--version-script=unimem.map -Wl,-soname,libunimem.so.$(SOVERSION) \
	    -Wl,-z,defs -Wl,-z,now -Wl,-z,relro -Wl,-z,nodelete $(SYSTEM_LIBS)
$(B)/libunimem.so: $(SHARED)
	@ln -sf libunimem.so.$(VERSION) $(B)/libunimem.so.$(SOVERSION)
	@ln -sf libunimem.so.$(SOVERSION) $@

# The command. The tests build one of their own in the same place, so it is taken from there at once.
COMMAND  := $(dir $(ARCHIVE))unimem
$(COMMAND): $(ARCHIVE) ;
$(B)/unimem: $(COMMAND)
	@mkdir -p $(B)
	@cp $< $@

# Static: one object whose only global names are ours, all of them weak. So a legacy C file in the program takes the
# place of ours here too, and other Rust libraries can be in it.
$(B)/libunimem.a: $(ARCHIVE) $(B)/names
	@echo "  LINK $@"
	@$(LD) -r --gc-sections $$(sed 's/^/-u /' $(B)/names) -o $(B)/whole.o --whole-archive $(ARCHIVE)
	@$(OBJCOPY) --strip-debug --remove-section=.llvmbc --remove-section=.llvmcmd \
	    --keep-global-symbols=$(B)/names --weaken-symbols=$(B)/names $(B)/whole.o $(B)/unimem.o
	@rm -f $@ $(B)/whole.o
	@$(AR) rcs $@ $(B)/unimem.o

# For LD_PRELOAD: the same archive, whose functions for whole programs get malloc's names here and nowhere else.
MALLOC := malloc=malloc free=free calloc=calloc realloc=realloc reallocarray=reallocarray memalign=memalign \
    aligned_alloc=memalign posix_memalign=posix_memalign valloc=valloc pvalloc=pvalloc malloc_usable_size=usable_size \
    malloc_trim=trim
$(B)/libunimem-malloc.so: $(ARCHIVE) unimem.map Makefile
	@echo "  LINK $@"
	@sed 's/^  local:/    $(foreach pair,$(MALLOC),$(firstword $(subst =, ,$(pair)));)\n&/' unimem.map > $(B)/malloc.map
	@$(CC) $(LDFLAGS) -shared -o $@ -Wl,--gc-sections -Wl,--whole-archive $(ARCHIVE) -Wl,--no-whole-archive \
	    $(foreach pair,$(MALLOC),-Wl,--defsym=$(subst =,=unimem_program_,$(pair))) \
	    -Wl,--version-script=$(B)/malloc.map -Wl,-soname,libunimem-malloc.so -Wl,-z,defs -Wl,-z,now -Wl,-z,relro \
	    -Wl,-z,nodelete $(SYSTEM_LIBS)

# For tests only: the same archive, with the functions that make system calls fail (src/os/injection.rs) exported too.
$(B)/libunimem_faults.so: $(ARCHIVE) unimem.map
	@echo "  LINK $@"
	@sed 's/^  local:/    unimem_inject_faults; unimem_end_faults; unimem_fault_calls;\n&/' unimem.map > $(B)/faults.map
	@$(CC) $(LDFLAGS) -shared -o $@ -Wl,--gc-sections -Wl,--whole-archive $(ARCHIVE) -Wl,--no-whole-archive \
	    -Wl,--version-script=$(B)/faults.map -Wl,-soname,libunimem_faults.so -Wl,-z,defs -Wl,-z,nodelete $(SYSTEM_LIBS)

# Longer runs of what `make test` runs for a moment.
TEST_FLAGS = -std=c11 -Wall -Wextra -Werror -pedantic $(CFLAGS) -pthread -Iinclude -Ic_tests
$(B)/tests/fault_sweep: $(B)/libunimem_faults.so
$(B)/tests/fuzz $(B)/tests/soak: $(B)/libunimem.so
$(addprefix $(B)/tests/,fault_sweep fuzz soak): $(B)/tests/%: c_tests/%.c FORCE
	@mkdir -p $(@D)
	@$(CC) $(TEST_FLAGS) $< -o $@ -L$(B) -l:$(notdir $(filter %.so,$^)) -Wl,-rpath,'$$ORIGIN/..' -lm
.PHONY: fault-sweep fuzz soak
# Every system call of every scenario fails once, with every error it can have: some minutes.  SCENARIO=text
fault-sweep: $(B)/tests/fault_sweep
	@$< full $(SCENARIO)
# Random inputs for SECONDS, from another seed each time; a finding says how to replay it.
SECONDS ?= 60
fuzz: $(B)/tests/fuzz
	@$< $(SECONDS) $$(date +%s)
# Everything at once for MINUTES: progress on stderr, what was done at the end.
MINUTES ?= 10
soak: $(B)/tests/soak
	@$< $(MINUTES) $$(date +%s)

# Library and C tests under the address and the thread sanitizer: some minutes.
.PHONY: sanitize
sanitize:
	@CARGO="$(CARGO)" TEST_CC="$(CC)" SYSTEM_LIBS="$(SYSTEM_LIBS)" sh c_tests/sanitize.sh $(B)

# The C tests, and the soak for MINUTES, with a library that watches its locks, has its assertions and looks for overflows, and
# ends the program where one of these finds something; the tests in debug mode and recorded, too: about an hour.  ONLY=text
.PHONY: checked run-checked
checked:
	@CARGO_BUILD_BUILD_DIR=$(TARGET) $(MAKE) --no-print-directory B=$(B)/checked CARGO_TARGET_DIR=$(TARGET)/checked \
	    CARGO_OPTIONS="--config tools/checked.toml" run-checked
run-checked: MINUTES = 4
run-checked: all
	@CARGO="$(CARGO)" TEST_CC="$(CC)" TEST_CXX="$(CXX)" MAKE="$(MAKE)" SYSTEM_LIBS="$(SYSTEM_LIBS)" sh c_tests/checked.sh $(B) $(MINUTES)

# The tests on an emulated aarch64 machine, under a Linux kernel for it: an hour or more.  ONLY=text
.PHONY: test-aarch64
test-aarch64: export ONLY := $(ONLY)
test-aarch64:
	@sh tools/deps.sh aarch64
	@MAKE="$(MAKE)" CARGO="$(CARGO)" sh c_tests/emulated.sh $(B)/aarch64

# The public project's own tests on each mixture of its C and this library.  TREE=directory of its sources
.PHONY: legacy-project
legacy-project: all
	@test -n "$(TREE)" || { echo "say where its sources are: make legacy-project TREE=..." >&2; exit 2; }
	@TEST_CC="$(CC)" sh c_tests/legacy_project.sh $(B) $(TREE)

# Whether the headers still declare the ABI of the last release; a release describes its own.
.PHONY: abi abi-release
abi: $(B)/names
	@sh tools/deps.sh test
	@sh c_tests/abi.sh $(B)
abi-release: $(B)/names
	@sh c_tests/abi.sh $(B) describe

deps:
	@sh tools/deps.sh test

# The examples are built as a user would: header, library, nothing else.
$(B)/demo/%: demo/%.c $(wildcard demo/*.h) bench/disk.h $(B)/libunimem.so include/unimem.h $(HEADERS)
	@mkdir -p $(@D)
	@$(CC) $(EXAMPLE_FLAGS) $< -o $@ -L$(B) -lunimem -Wl,-rpath,'$$ORIGIN/..' -pthread -lm -ldl
$(B)/bench/%: bench/%.c $(wildcard bench/*.h) c_tests/access_orders.h $(B)/libunimem.so include/unimem.h $(HEADERS)
	@mkdir -p $(@D)
	@$(CC) $(EXAMPLE_FLAGS) $< -o $@ -L$(B) -lunimem -Wl,-rpath,'$$ORIGIN/..' -pthread -lm -ldl
DEMOS   := $(patsubst demo/%.c,$(B)/demo/%,$(wildcard demo/*.c))
BENCHES := $(patsubst bench/%.c,$(B)/bench/%,$(wildcard bench/*.c))

demo:
	@sh tools/deps.sh demo
	@$(MAKE) --no-print-directory run-demo
.PHONY: run-demo
run-demo: all $(DEMOS)
	@set -e; for program in $(DEMOS); do $$program; done

# What they print is worth seeing; the tests only look at whether they are right.
examples: all
	@TEST_CC="$(CC)" sh c_tests/examples.sh $(B)

bench: all $(BENCHES)
	@set -e; for program in $(BENCHES); do echo "== $$(basename $$program)"; $$program; done

# The last line is "N passed, N failed".
test:
	@sh tools/deps.sh test
	@$(MAKE) --no-print-directory all
	@CARGO="$(CARGO)" TEST_CC="$(CC)" TEST_CXX="$(CXX)" MAKE="$(MAKE)" SYSTEM_LIBS="$(SYSTEM_LIBS)" sh c_tests/run.sh $(B)

header:
	@UNIMEM_BLESS=1 $(CARGO) checked --quiet --test header

lint: OLDEST = $(shell sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	shellcheck tools/*.sh c_tests/*.sh .ci/run
	rustup toolchain install --profile minimal --no-self-update $(OLDEST)
	CARGO_TARGET_DIR=$(TARGET)/oldest $(CARGO) +$(OLDEST) check --quiet --locked --all-targets

clean:
	@rm -rf $(B)
	@$(CARGO) clean --quiet

include packaging/packaging.mk
# The traces that both replay.
include demo/demo.mk bench/bench.mk
