# Installing, and packages: `make install`, `make uninstall`, `make dist`, `make distcheck`, `make deb`.
.PHONY: install uninstall dist distcheck deb

PC_FIELDS = -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))|' \
    -e 's|@INCLUDEDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(INCLUDEDIR))|' \
    -e 's|@VERSION@|$(VERSION)|' -e 's|@SYSTEM_LIBS@|$(SYSTEM_LIBS)|'
# Both are relative to the place of the CMake files, so that an installed tree can be moved.
CMAKE_FIELDS = -e 's|@VERSION@|$(VERSION)|' -e 's|@SOVERSION@|$(SOVERSION)|' \
    -e "s|@INCLUDES@|$$(realpath -m --relative-to=$(LIBDIR)/cmake/unimem $(INCLUDEDIR))|"
# Beside each other as here, so that what refers to one another finds it.
EXAMPLES := $(wildcard examples/*.c)
DOCUMENTS := README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE
GUIDES   := $(wildcard docs/*.md)

install: all
	@install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(INCLUDEDIR)/unimem $(DESTDIR)$(LIBDIR)/pkgconfig \
	    $(DESTDIR)$(LIBDIR)/cmake/unimem $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man3 $(DESTDIR)$(DOCDIR)/examples $(DESTDIR)$(DOCDIR)/docs
	@install -m 755 $(B)/unimem $(DESTDIR)$(BINDIR)/
	@install -m 644 include/unimem.h include/unimem.hpp $(DESTDIR)$(INCLUDEDIR)/
	@install -m 644 $(HEADERS) $(DESTDIR)$(INCLUDEDIR)/unimem/
	@install -m 644 $(B)/libunimem.a $(DESTDIR)$(LIBDIR)/
	@install -m 755 $(B)/libunimem-malloc.so $(DESTDIR)$(LIBDIR)/
	@install -m 755 $(SHARED) $(DESTDIR)$(LIBDIR)/
	@ln -sf libunimem.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libunimem.so.$(SOVERSION)
	@ln -sf libunimem.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libunimem.so
	@sed $(PC_FIELDS) packaging/unimem.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/unimem.pc
	@for file in unimem-config unimem-config-version; do \
	    sed $(CMAKE_FIELDS) packaging/$$file.cmake.in > $(DESTDIR)$(LIBDIR)/cmake/unimem/$$file.cmake; done
	@install -m 644 man/unimem.1 $(DESTDIR)$(MANDIR)/man1/
	@install -m 644 man/unimem.3 $(DESTDIR)$(MANDIR)/man3/
	@install -m 644 $(DOCUMENTS) $(DESTDIR)$(DOCDIR)/
	@install -m 644 $(GUIDES) $(DESTDIR)$(DOCDIR)/docs/
	@install -m 644 $(EXAMPLES) $(DESTDIR)$(DOCDIR)/examples/
	@echo "installed to $(DESTDIR)$(PREFIX)"

uninstall:
	@rm -f $(DESTDIR)$(BINDIR)/unimem $(DESTDIR)$(INCLUDEDIR)/unimem.h $(DESTDIR)$(INCLUDEDIR)/unimem.hpp \
	    $(addprefix $(DESTDIR)$(INCLUDEDIR)/unimem/,$(notdir $(HEADERS))) \
	    $(DESTDIR)$(LIBDIR)/libunimem.a $(DESTDIR)$(LIBDIR)/libunimem.so* $(DESTDIR)$(LIBDIR)/libunimem-malloc.so \
	    $(DESTDIR)$(LIBDIR)/pkgconfig/unimem.pc \
	    $(DESTDIR)$(LIBDIR)/cmake/unimem/unimem-config*.cmake \
	    $(DESTDIR)$(MANDIR)/man1/unimem.1 $(DESTDIR)$(MANDIR)/man3/unimem.3 \
	    $(addprefix $(DESTDIR)$(DOCDIR)/,$(notdir $(DOCUMENTS)) $(GUIDES) $(EXAMPLES))
	@for directory in $(INCLUDEDIR)/unimem $(LIBDIR)/cmake/unimem $(DOCDIR)/examples $(DOCDIR)/docs $(DOCDIR); do \
	    rmdir $(DESTDIR)$$directory 2>/dev/null || true; done # one that holds something of another's stays
	@echo "removed from $(DESTDIR)$(PREFIX)"

# A source archive that builds without a network: the crates are in it.
dist:
	@CARGO="$(CARGO)" sh packaging/dist.sh $(B) $(VERSION)

# Builds what `make dist` made as its user would, without a network and with no crates but its own: minutes.
distcheck: dist
	@rm -rf $(B)/distcheck && mkdir -p $(B)/distcheck
	@tar -C $(B)/distcheck -xzf $(B)/unimem-$(VERSION).tar.gz
	@cd $(B)/distcheck/unimem-$(VERSION) && \
	    env -u CARGO_TARGET_DIR CARGO_HOME=$$PWD/../home CARGO_NET_OFFLINE=true $(MAKE) --no-print-directory all
	@rm -rf $(B)/distcheck
	@echo "distcheck: build/unimem-$(VERSION).tar.gz builds without a network"

# Debian packages: libunimem1 (shared library), libunimem-dev, unimem (the command).
deb: all
	@MAKE="$(MAKE)" sh packaging/deb.sh $(B) $(VERSION) $(SOVERSION)
