# The benchmarks replay the demo's traces. Included at the end of the Makefile, after demo/demo.mk.
# Debian's libmimalloc2.0 is compared with where it is installed, and said to be skipped where it is not.
$(BENCHES): $(wildcard demo/*.h)
bench: $(TRACES)
