# Allocation traces of real programs, unpacked for the demo and the benchmarks. Included at the end of the Makefile.
TRACES := $(patsubst demo/traces/%.gz,$(B)/traces/%,$(wildcard demo/traces/*.trace.gz))

$(B)/traces/%.trace: demo/traces/%.trace.gz
	@mkdir -p $(@D)
	@gzip -dc $< > $@.part && mv $@.part $@

run-demo: $(TRACES)
