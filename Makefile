# On a fresh machine (Python >= 3.10, a C++ compiler, CMake):
#   make chat    install with the default model, and chat
#   make test    install what the tests need, and run the fast tests
#   make lint    linters, type checker and the native core's own tests
#   make docs    the documentation as a site in build/site; warnings are errors
#   make bench   what steering costs now beside the last committed result, as ratios to plain llama.cpp (2 minutes)
#   make counts  instructions of the native core's hot path beside the last committed ones (needs valgrind)
# Everything lives in .venv and build/. A second call installs nothing.
#   make chat ARGS="--compare"    make test PYTHON=python3.12    make test ARGS="-k cli"

PYTHON ?= python3
ARGS ?=

# The training tests need torch. Linux wheels of torch may bring gigabytes of CUDA, which nothing here uses; where the
# package index serves CPU builds from an index of its own, name it: PIP_ARGS="--extra-index-url URL".
TORCH ?= torch==2.13.0
PIP_ARGS ?=

# Some virtual machines announce AMX and fault on its first instruction, in llama.cpp: it is compiled without.
ifneq ($(shell grep -ow -m1 amx_tile /proc/cpuinfo 2>/dev/null),)
export CMAKE_ARGS := -DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8 $(CMAKE_ARGS)
endif

VENV := .venv
BIN := $(VENV)/bin
COMMA := ,
CHAT_STAMP := $(VENV)/.installed-for-chat
TEST_STAMP := $(VENV)/.installed-for-tests
SOURCES := pyproject.toml CMakeLists.txt native/CMakeLists.txt native/stub_patterns.txt \
	$(wildcard native/*.cpp native/src/*.cpp native/src/*.h)

# What needs no torch.
BENCHED := plain,idle,capture-1,capture-all,capture-last,control-vector,steer-default,steer-15x3,steer-paper,python-onnx

# Nothing goes to stdout but the program's own words: `echo "question" | make chat` prints the answer.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "edge-eds needs Python 3.10 or newer; name one as in: make chat PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) >&2
	@echo "Installing edge-eds into $(VENV). The first time llama.cpp is compiled, which takes several minutes." >&2
	@$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) $(1) </dev/null >&2
endef

.PHONY: chat test lint docs native-test bench counts clean

chat: $(CHAT_STAMP)
	@$(BIN)/edge-eds chat $(ARGS)

test: $(TEST_STAMP)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(TEST_STAMP) native-test
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(TEST_STAMP)
	@$(BIN)/zensical build --strict

native-test:
	@cmake -S native -B build/native -DCMAKE_BUILD_TYPE=Release >/dev/null
	@cmake --build build/native --parallel 2 >/dev/null
	@ctest --test-dir build/native --output-on-failure

# ARGS=--write keeps what was counted as native/counts/baseline.json, to be committed with the change that explains it
counts:
	@cmake -S native -B build/native -DCMAKE_BUILD_TYPE=Release >/dev/null
	@cmake --build build/native --target hot_path >/dev/null
	@$(PYTHON) native/counts/counts.py build/native/counts/hot_path $(ARGS)

# ARGS="--out docs/speed.json" keeps the result, to be committed with the change that explains it
bench: $(CHAT_STAMP)
	@$(BIN)/edge-eds bench --shape smollm2 --threads 1 --cpu-time -p 64 -n 16 -r 9 --variants $(BENCHED) \
		--against docs/speed.json $(ARGS)

clean:
	@rm -rf $(VENV) build .cache .pytest_cache .mypy_cache .ruff_cache

$(CHAT_STAMP): $(SOURCES)
	$(call install,-e ".[demo]")
	@touch $@

# It holds all that the chat needs, too.
$(TEST_STAMP): $(SOURCES)
	$(call install,"$(TORCH)" -e ".[demo$(COMMA)train$(COMMA)serve$(COMMA)hf$(COMMA)llm$(COMMA)docs$(COMMA)dev]")
	@touch $@ $(CHAT_STAMP)
