# The demo: real allocation traces through libunimem. Included by the Makefile, which gives B, CC, CFLAGS and WARN.
DEMO_TRACES := $(patsubst demo/traces/%.gz,$(B)/%,$(wildcard demo/traces/*.trace.gz))

$(B)/%.trace: demo/traces/%.trace.gz | $(B)
	@gzip -dc $< > $@.part && mv $@.part $@

$(B)/trace_replay: demo/trace_replay.c $(wildcard demo/*.h include/*.h include/unimem/*.h) $(B)/libunimem.so
	$(CC) -std=c11 $(CFLAGS) $(WARN) -Iinclude -Idemo $< -o $@ -L$(B) -lunimem -lpthread -Wl,-rpath,'$$ORIGIN'

.PHONY: run-demo
run-demo: $(B)/trace_replay $(DEMO_TRACES)
	@$(B)/trace_replay $(DEMO_TRACES)
