# trafficgpt: `make` lists what can be made.

CARGO      ?= cargo
PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DESTDIR    ?=

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
ABI     := $(shell sed -n 's/^\#define TGPT_ABI //p' include/trafficgpt.h)
TARGET  := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
RUNTIME := .runtime/libonnxruntime.so.1

# What `make demo` shows; another bundle, capture or class may be named on the command line.
DEMO         ?= demo-out
DEMO_BUNDLE  ?= examples/models/protocols.tgpt
DEMO_CAPTURE ?= examples/captures/mixed.pcap.gz
DEMO_CLASS   ?= TLS
DEMO_REAL    ?= examples/captures/$(DEMO_CLASS).pcap.gz
DEMO_FLOWS   ?= 300

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu lib runtime header kernels bench bench-gpu install uninstall clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

lib: ## the library and the trafficgpt command, in target/release
	$(CARGO) build --release --features train

runtime: $(RUNTIME) ## ONNX Runtime, in .runtime (about 20 MB from PyPI)

$(RUNTIME):
	dev/fetch_onnxruntime.sh

demo: lib runtime ## classify a real capture through the C ABI, generate flows, draw both
	@mkdir -p $(DEMO)/lib
	@ln -sf $(abspath $(RELEASE))/libtrafficgpt.so $(DEMO)/lib/libtrafficgpt.so
	@ln -sf $(abspath $(RELEASE))/libtrafficgpt.so $(DEMO)/lib/libtrafficgpt.so.$(ABI)
	$(CC) -std=c99 -O2 -Wall -Iinclude examples/c/classify.c -L$(DEMO)/lib -ltrafficgpt \
	    -Wl,-rpath,$(abspath $(DEMO))/lib -o $(DEMO)/classify
	$(DEMO)/classify --onnx-library $(abspath $(RUNTIME)) --limit 40 $(DEMO_BUNDLE) $(DEMO_CAPTURE)
	@echo
	$(RELEASE)/trafficgpt generate $(DEMO_BUNDLE) --class $(DEMO_CLASS) -n $(DEMO_FLOWS) --seed 1 \
	    -o $(DEMO)/generated.parquet
	$(RELEASE)/trafficgpt meter $(DEMO_REAL) --label $(DEMO_CLASS) -o $(DEMO)/real.parquet
	$(RELEASE)/trafficgpt compare $(DEMO)/real.parquet $(DEMO)/generated.parquet --label $(DEMO_CLASS) \
	    -o $(DEMO)/real-beside-generated.svg
	@echo
	@echo "The picture is $(DEMO)/real-beside-generated.svg; open it in a browser. What to try next:"
	@echo "  make demo DEMO_CLASS=DNS"
	@echo "  $(DEMO)/classify --onnx-library $(RUNTIME) $(DEMO_BUNDLE) YOUR.pcap"
	@echo "  $(RELEASE)/trafficgpt info $(DEMO_BUNDLE)"
	@echo "  $(RELEASE)/trafficgpt generate $(DEMO_BUNDLE) --class $(DEMO_CLASS) -n 100 --seed 2 -o flows.pcap"
	@echo "  make install PREFIX=\$$HOME/.local    then: cc app.c \$$(pkg-config --cflags --libs trafficgpt)"

test: ## every test: Rust, C, C++, Go where it is installed, formatting, lints
	@CARGO="$(CARGO)" .ci/test

test-gpu: ## every kernel on a GPU against the CPU, under compute-sanitizer too; skipped without a GPU
	@CARGO="$(CARGO)" benches/gpu.sh test

kernels: ## compile kernels/*.cu to kernels/ptx anew (the compiler, 24 MB, comes from PyPI)
	kernels/build

header: ## write include/trafficgpt.h and tests/abi anew from the sources
	TRAFFICGPT_UPDATE=1 $(CARGO) test --quiet --features train --test header
	TRAFFICGPT_UPDATE=1 $(CARGO) test --quiet --features train --test c_abi

bench: ## the benches
	$(CARGO) bench --features train

bench-gpu: ## the kernels on a GPU beside the CPU, as one table; skipped without a GPU
	@CARGO="$(CARGO)" benches/gpu.sh bench

install: lib ## install library, header, pkg-config file and command under PREFIX (and DESTDIR)
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)
	install -m 755 $(RELEASE)/trafficgpt $(DESTDIR)$(BINDIR)/trafficgpt
	install -m 755 $(RELEASE)/libtrafficgpt.so $(DESTDIR)$(LIBDIR)/libtrafficgpt.so.$(VERSION)
	ln -sf libtrafficgpt.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libtrafficgpt.so.$(ABI)
	ln -sf libtrafficgpt.so.$(ABI) $(DESTDIR)$(LIBDIR)/libtrafficgpt.so
	install -m 644 $(RELEASE)/libtrafficgpt.a $(DESTDIR)$(LIBDIR)/libtrafficgpt.a
	install -m 644 include/trafficgpt.h $(DESTDIR)$(INCLUDEDIR)/trafficgpt.h
	sed -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' -e 's|@VERSION@|$(VERSION)|' trafficgpt.pc.in \
	    > $(DESTDIR)$(LIBDIR)/pkgconfig/trafficgpt.pc

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(BINDIR)/trafficgpt $(DESTDIR)$(INCLUDEDIR)/trafficgpt.h
	rm -f $(DESTDIR)$(LIBDIR)/pkgconfig/trafficgpt.pc $(DESTDIR)$(LIBDIR)/libtrafficgpt.a
	rm -f $(DESTDIR)$(LIBDIR)/libtrafficgpt.so $(DESTDIR)$(LIBDIR)/libtrafficgpt.so.$(ABI)
	rm -f $(DESTDIR)$(LIBDIR)/libtrafficgpt.so.$(VERSION)

clean: ## remove what was built; the runtime stays
	$(CARGO) clean
	rm -rf $(DEMO)
