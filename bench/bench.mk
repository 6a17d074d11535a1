# The benchmarks replay the demo's traces. Included at the end of the Makefile, after demo/demo.mk.
# Debian's libmimalloc2.0 is compared with where it is installed, and said to be skipped where it is not.
$(BENCHES): $(wildcard demo/*.h)
bench: $(TRACES)

# 500 million parameters in 512 MiB: a few minutes, 4 GB of disk, and 4 GB of RAM for the run it is compared with.
.PHONY: bench-large bench-contraction
bench-large: all $(B)/bench/bench_tensor
	@$(B)/bench/bench_tensor --large
# Single contractions beside one plain matrix product, and beside NumPy, torch and TBLIS where PYTHON has them.
bench-contraction:
	@echo "== contraction"
	@$(CARGO) bench --quiet --locked --bench contraction -- --rivals
bench: bench-contraction
