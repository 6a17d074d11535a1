# The benchmarks. Included by the Makefile, which gives B, CC, CFLAGS and WARN, after demo/demo.mk, which gives DEMO_TRACES.
# libmimalloc2.0 (Debian) is compared with where it is installed; the line says SKIP where it is not.
BENCH_DEBS := libmimalloc2.0
BENCHES := $(B)/bench_heap $(B)/bench_tracking

$(BENCHES): $(B)/%: bench/%.c $(wildcard bench/*.h demo/*.h include/*.h include/unimem/*.h) $(B)/libunimem.so
	$(CC) -std=c11 $(CFLAGS) $(WARN) -Iinclude -Idemo -Ibench $< -o $@ -L$(B) -lunimem -ldl -lpthread -Wl,-rpath,'$$ORIGIN'

.PHONY: run-bench
run-bench: $(BENCHES) $(DEMO_TRACES)
	@rm -f $(B)/bench.csv
	@$(B)/bench_heap $(B)/bench.csv $(DEMO_TRACES)
	@$(B)/bench_tracking $(B)/bench.csv
