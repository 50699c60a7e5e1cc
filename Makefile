# trafficgpt: `make` lists what can be made.

CARGO      ?= cargo
PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR    ?= $(PREFIX)/share
CMAKEDIR   ?= $(LIBDIR)/cmake/trafficgpt
MANDIR     ?= $(DATADIR)/man
BASHDIR    ?= $(DATADIR)/bash-completion/completions
ZSHDIR     ?= $(DATADIR)/zsh/site-functions
FISHDIR    ?= $(DATADIR)/fish/vendor_completions.d
# Where WITH_ONNX=1 puts ONNX Runtime: the library and the command look there, no other program does.
ONNXDIR    ?= $(PREFIX)/lib/trafficgpt
WITH_ONNX  ?=
DESTDIR    ?=
# The directory with the built library and command. Named on the command line, it is taken as it is.
BUILT      ?= $(RELEASE)

override PREFIX := $(abspath $(PREFIX))
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
ABI     := $(shell sed -n 's/^\#define TGPT_ABI //p' include/trafficgpt.h)
TARGET  := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
ONNX    := $(filter 1,$(WITH_ONNX))
RUNTIME := .runtime/libonnxruntime.so.1
DEB     ?= $(TARGET)/deb

# What `make demo` shows; another bundle, capture or class may be named on the command line.
DEMO         ?= demo-out
DEMO_BUNDLE  ?= examples/models/protocols.tgpt
DEMO_CAPTURE ?= examples/captures/mixed.pcap.gz
DEMO_CLASS   ?= TLS
DEMO_REAL    ?= examples/captures/$(DEMO_CLASS).pcap.gz
DEMO_FLOWS   ?= 300

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu lib runtime header kernels bench bench-gpu install uninstall deb clean

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
	@echo "  make install PREFIX=\$$HOME/.local"
	@echo "  export PKG_CONFIG_PATH=\$$HOME/.local/lib/pkgconfig LD_LIBRARY_PATH=\$$HOME/.local/lib"
	@echo "    in C:  cc app.c \$$(pkg-config --cflags --libs trafficgpt)"
	@echo "    in Go: cd examples/go && go run ./classify $(abspath $(DEMO_BUNDLE)) $(abspath $(DEMO_CAPTURE))"

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

bench-gpu: ## the kernels on a GPU beside CPU and PyTorch, as one table; skipped without a GPU
	@CARGO="$(CARGO)" benches/gpu.sh bench

# From directory $(1) to directory $(2), so that what is installed may be moved as a whole.
relative = $(shell realpath -ms --relative-to=$(1) $(2))
# A template of packaging with its @NAMES@ filled in.
fill = sed -e 's|@VERSION@|$(VERSION)|' -e 's|@ABI@|$(ABI)|' \
    -e 's|@PREFIX@|$${pcfiledir}/$(call relative,$(LIBDIR)/pkgconfig,$(PREFIX))|' \
    -e 's|@LIBDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))|' \
    -e 's|@INCLUDEDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(INCLUDEDIR))|' \
    -e 's|@CMAKE_LIBDIR@|$(call relative,$(CMAKEDIR),$(LIBDIR))|' \
    -e 's|@CMAKE_INCLUDEDIR@|$(call relative,$(CMAKEDIR),$(INCLUDEDIR))|'
HEADERS := $(notdir $(wildcard include/*.h include/*.hpp))

install: $(if $(filter $(RELEASE),$(BUILT)),lib) $(if $(ONNX),runtime)
install: ## install library, headers, command, man pages and completions; WITH_ONNX=1: ONNX Runtime too
	install -d $(addprefix $(DESTDIR),$(BINDIR) $(LIBDIR)/pkgconfig $(INCLUDEDIR) $(CMAKEDIR) $(MANDIR)/man1) \
	    $(addprefix $(DESTDIR),$(BASHDIR) $(ZSHDIR) $(FISHDIR))
	install -m 755 $(BUILT)/trafficgpt $(DESTDIR)$(BINDIR)/trafficgpt
	install -m 644 $(BUILT)/libtrafficgpt.so $(DESTDIR)$(LIBDIR)/libtrafficgpt.so.$(VERSION)
	ln -sf libtrafficgpt.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libtrafficgpt.so.$(ABI)
	ln -sf libtrafficgpt.so.$(ABI) $(DESTDIR)$(LIBDIR)/libtrafficgpt.so
	install -m 644 $(BUILT)/libtrafficgpt.a $(DESTDIR)$(LIBDIR)/libtrafficgpt.a
	install -m 644 $(addprefix include/,$(HEADERS)) $(DESTDIR)$(INCLUDEDIR)
	$(fill) packaging/trafficgpt.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/trafficgpt.pc
	$(fill) packaging/trafficgpt-config.cmake.in > $(DESTDIR)$(CMAKEDIR)/trafficgpt-config.cmake
	$(fill) packaging/trafficgpt-config-version.cmake.in > $(DESTDIR)$(CMAKEDIR)/trafficgpt-config-version.cmake
	pages=$$(mktemp -d) && trap 'rm -rf "$$pages"' EXIT && $(abspath $(BUILT))/trafficgpt write-pages "$$pages" && \
	    install -m 644 "$$pages"/man1/*.1 $(DESTDIR)$(MANDIR)/man1 && \
	    install -m 644 "$$pages"/bash/trafficgpt.bash $(DESTDIR)$(BASHDIR)/trafficgpt && \
	    install -m 644 "$$pages"/zsh/_trafficgpt $(DESTDIR)$(ZSHDIR)/_trafficgpt && \
	    install -m 644 "$$pages"/fish/trafficgpt.fish $(DESTDIR)$(FISHDIR)/trafficgpt.fish
ifneq ($(ONNX),)
	install -d $(DESTDIR)$(ONNXDIR)
	install -m 644 $(RUNTIME) $(dir $(RUNTIME))*.onnxruntime* $(DESTDIR)$(ONNXDIR)
endif

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(BINDIR)/trafficgpt $(addprefix $(DESTDIR)$(INCLUDEDIR)/,$(HEADERS))
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/libtrafficgpt.,so so.$(ABI) so.$(VERSION) a)
	rm -f $(DESTDIR)$(LIBDIR)/pkgconfig/trafficgpt.pc
	rm -f $(DESTDIR)$(MANDIR)/man1/trafficgpt.1 $(DESTDIR)$(MANDIR)/man1/trafficgpt-*.1
	rm -f $(DESTDIR)$(BASHDIR)/trafficgpt $(DESTDIR)$(ZSHDIR)/_trafficgpt $(DESTDIR)$(FISHDIR)/trafficgpt.fish
	rm -f $(addprefix $(DESTDIR)$(CMAKEDIR)/trafficgpt-config,.cmake -version.cmake)
	rm -f $(addprefix $(DESTDIR)$(ONNXDIR)/,$(notdir $(RUNTIME)) LICENSE.onnxruntime ThirdPartyNotices.onnxruntime.txt)
	for own in $(DESTDIR)$(CMAKEDIR) $(DESTDIR)$(ONNXDIR); do \
	    if [ -d "$$own" ]; then rmdir --ignore-fail-on-non-empty "$$own"; fi; done

deb: $(if $(filter $(RELEASE),$(BUILT)),lib) $(if $(ONNX),runtime)
deb: ## Debian packages, in target/deb; WITH_ONNX=1: one with ONNX Runtime too
	CARGO="$(CARGO)" BUILT=$(BUILT) WITH_ONNX=$(ONNX) packaging/deb.sh $(DEB)

clean: ## remove what was built; the runtime stays
	$(CARGO) clean
	rm -rf $(DEMO)
