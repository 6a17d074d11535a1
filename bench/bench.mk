# The benchmarks, which replay the demo's traces. Included at the end of the Makefile, after demo/demo.mk.
# Other allocators are compared with if they are installed; otherwise a line says that they are skipped.
$(BENCHES): $(wildcard demo/*.h)
.PHONY: bench-deps
bench-deps:
	@sh tools/deps.sh bench
bench bench-alloc bench-contraction: bench-deps
bench: $(TRACES)

# Every workload on 1, 2 and 4 threads, which takes some minutes, and then the chart. To select some of it:
# ARGUMENTS='--only pairs,LIFO --threads 1 --quick'
ARGUMENTS ?= --all
.PHONY: bench-alloc bench-tools
bench-alloc: all $(B)/bench/bench_alloc $(TRACES) bench-tools
	@echo "bench-alloc: about 6 minutes for everything, and 4 GiB of RAM"
	@$(B)/bench/bench_alloc $(ARGUMENTS)
	@test ! -x $(B)/bench-tools/release/chart || \
	    { $(B)/bench-tools/release/chart $(B)/bench-alloc.csv $(B)/bench-alloc.svg && echo "$(B)/bench-alloc.svg"; }

# The same with the archive in place of the shared library: no procedure linkage table, and the thread's record is one load.
$(B)/bench/bench_alloc_static: bench/bench_alloc.c $(wildcard bench/*.h demo/*.h) $(B)/libunimem.a include/unimem.h $(HEADERS)
	@mkdir -p $(@D)
	@$(CC) $(EXAMPLE_FLAGS) $< -o $@ $(B)/libunimem.a $(SYSTEM_LIBS)

# The tool that draws the chart, and mimalloc's secure build as a library. They need crates that nothing else here
# needs.
bench-tools:
	@if $(CARGO) build --quiet --release --locked --manifest-path tools/bench/Cargo.toml --target-dir $(B)/bench-tools; then \
	    $(CC) -shared -o $(B)/libmimalloc_secure.so -Wl,-Bsymbolic -Wl,--gc-sections -Wl,--whole-archive \
	        $(B)/bench-tools/release/libmimalloc_secure.a -Wl,--no-whole-archive $(SYSTEM_LIBS); \
	else echo "SKIP the chart and mimalloc's secure build: their crates cannot be had"; fi

# 500 million parameters in 512 MiB: a few minutes, 4 GB of disk, and 4 GB of RAM for the run it is compared with.
.PHONY: bench-large bench-contraction
bench-large: all $(B)/bench/bench_tensor
	@$(B)/bench/bench_tensor --large
# Single contractions beside one plain matrix product, and beside NumPy, torch and TBLIS if a Python has them (PYTHON).
bench-contraction:
	@echo "== contraction"
	@$(CARGO) bench --quiet --locked --bench contraction -- --rivals
bench: bench-contraction
# The coders of chunks: ratio, and speed beside a plain copy, on every instruction set of this processor.
.PHONY: bench-codec
bench-codec:
	@echo "== codecs of tiered memory"
	@$(CARGO) bench --quiet --locked --bench tiers_codec
bench: bench-codec
