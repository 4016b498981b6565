"The folder listing is the architecture, and what imports what points one way."
import ast, builtins, dis, importlib, json, re
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
LIBRARY, NOTEBOOKS = ROOT/"hebrewgpt_nb", ROOT/"nbs"
DOOR = ["data", "tokenizer", "tokenizer_json", "model", "quantize", "stock", "bundle", "generate", "metrics", "unlikelihood", "pretrain", "sft",
        "intervals", "grading", "making", "tasks", "constraints", "references", "audits", "benchmarks", "backends", "reports", "harness", "evaluate", "llamacpp", "hub", "release", "bench", "serve", "widgets", "jobs"]
FOLDERS = ["core", "text", "grammar", "instructions", "engine", "training", "door", "studies", "apps"] # each may import from those before it, and from itself


def name_of(path: Path) -> str: # text.clean
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)

def folder_of(module: str) -> str:
    return "core" if module == "core" else module.partition(".")[0] if "." in module else "door"

def imported(source: str, package: tuple[str, ...]=()) -> set[str]: # modules of the library that the source names, inside functions too
    found = set()
    for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M))):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names if a.name.startswith("hebrewgpt_nb.")}
        if not isinstance(node, ast.ImportFrom): continue
        above = ("hebrewgpt_nb", *package)[:len(package) + 2 - node.level] if node.level else ()
        module = ".".join([*above, *([node.module] if node.module else [])])
        if module.split(".")[0] != "hebrewgpt_nb": continue
        found |= {module} | {f"{module}.{a.name}" for a in node.names}
    names = {m.removeprefix("hebrewgpt_nb.") for m in found}
    return {m for m in names if (LIBRARY/(m.replace(".", "/") + ".py")).exists()}

MODULES = {name_of(p): imported(p.read_text(encoding="utf8"), p.relative_to(LIBRARY).parts[:-1])
           for p in sorted(LIBRARY.rglob("*.py")) if p.name not in ("__init__.py", "_modidx.py")}


def test_the_door_is_what_design_says():
    assert [m for m in MODULES if folder_of(m) == "door"] == sorted(DOOR)
    assert {folder_of(m) for m in MODULES} <= set(FOLDERS)

@pytest.mark.parametrize("module", MODULES)
def test_folders_import_one_way(module):
    own = FOLDERS.index(folder_of(module))
    wrong = {m for m in MODULES[module] - {module} if FOLDERS.index(folder_of(m)) > own}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"

def test_the_door_is_in_reading_order():
    for n, module in enumerate(DOOR):
        wrong = MODULES[module] & set(DOOR[n + 1:])
        assert not wrong, f"{module} imports {wrong}, which come after it"

def test_no_module_imports_in_a_circle():
    done, left = set(), {m: d - {m} for m, d in MODULES.items()}
    while ready := [m for m, needs in left.items() if needs <= done]:
        done |= set(ready)
        for m in ready: del left[m]
    assert not left, f"in a circle: {', '.join(left)}"

def names_in(code, *opnames: str) -> set[str]: # of a code object and those in it
    found = {i.argval for i in dis.get_instructions(code) if i.opname in opnames}
    return found.union(*(names_in(c, *opnames) for c in code.co_consts if hasattr(c, "co_code")))

@pytest.mark.parametrize("module", MODULES)
def test_every_name_is_defined_in_the_module_itself(module):
    "What only a hidden cell of the notebook imports is missing from the library."
    path = LIBRARY/(module.replace(".", "/") + ".py")
    code = compile(path.read_text(encoding="utf8"), str(path), "exec")
    made = vars(importlib.import_module(f"hebrewgpt_nb.{module}")).keys() | vars(builtins).keys()
    assert names_in(code, "LOAD_GLOBAL", "LOAD_NAME") <= made | names_in(code, "STORE_NAME", "STORE_GLOBAL") | {"__annotations__"}

STAGES = ["00_data", "01_tokenizer", "04_pretrain", "05_sft", "06_eval", "09_bench", "12_making"] # that compute much

@pytest.mark.parametrize("stage", STAGES)
def test_a_job_imports_the_library_before_torch(stage):
    "Which asks PyTorch's threads not to spin for long, in a variable that is read once."
    cells = [c for c in json.loads((NOTEBOOKS/f"{stage}.ipynb").read_text(encoding="utf8"))["cells"] if c["cell_type"] == "code"]
    imports = re.findall(r"^(?:import|from) .*", "\n".join("".join(c["source"]) for c in cells), flags=re.M)
    first = next(line for line in imports if re.search("hebrewgpt_nb|torch|transformers|peft|datasets", line))
    assert "hebrewgpt_nb" in first

def exports(cells: list[str]) -> str: # the module a notebook writes, "" if none
    return next((m[1] for c in cells if (m := re.search(r"default_exp (\S+)", c))), "")

def notebooks() -> dict[str, list[str]]: # name -> code cells
    paths = sorted(p for p in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    return {str(p.relative_to(NOTEBOOKS).with_suffix("")): ["".join(c["source"]) for c in json.loads(p.read_text(encoding="utf8"))["cells"] if c["cell_type"] == "code"] for p in paths}

def test_each_notebook_has_its_place():
    "Stages with a number of their own at the door, parts in folders, numbered in reading order from one."
    names = list(notebooks())
    door = [n for n in names if "/" not in n and n != "index"]
    assert all(re.fullmatch(r"\d\d_[a-z]+", n) for n in door) and len({n[:2] for n in door}) == len(door)
    for folder in ("core", "text", "grammar", "instructions", "engine", "training", "evaluation", "release", "studies"):
        numbers = sorted(int(n.split("/")[1].split("_")[0]) for n in names if n.startswith(folder + "/")) # 10 after 9
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1)

@pytest.mark.parametrize("name", [n for n in notebooks() if not n.startswith("studies/") and n != "index"])
def test_lessons_do_not_import_later_modules(name):
    "A notebook's lessons may use what was read before it; `core` and the folders before its own, and the door up to its own module."
    cells = notebooks()[name]
    own = exports(cells)
    used = set().union(*(imported(c) for c in cells))
    order = READING.index(own)
    wrong = {m for m in used if m in READING and READING.index(m) > order}
    assert not wrong, f"nbs/{name}.ipynb uses {', '.join(sorted(wrong))}, which come later"

READING = [ # the order in which the notebooks are read
    "core", "text.records", "text.clean", "text.copies", "text.sources", "text.shards", "text.mixture", "text.filter", "data",
    "text.prefixes", "text.rules", "text.examples", "text.hygiene", "tokenizer", "tokenizer_json", "grammar.verbs", "grammar.nouns", "grammar.words", "grammar.sentences",
    "grammar.stories", "grammar.exercises", "grammar.pairs", "grammar.plots", "grammar.texts",
    "instructions.choices", "instructions.sets", "instructions.mix",
    "engine.scan", "engine.cpu", "engine.fused", "engine.loss", "engine.blocks", "model", "quantize", "stock", "bundle", "generate", "metrics",
    "training.rows", "training.optim", "training.checkpoint", "training.loop", "unlikelihood", "pretrain", "sft",
    "intervals", "grading", "making", "tasks", "constraints", "references", "audits", "benchmarks", "backends", "reports", "harness", "evaluate", "llamacpp", "hub", "release", "bench", "serve", "widgets", "jobs"]

def test_the_reading_order_names_every_module():
    assert set(READING) == {m for m in MODULES if folder_of(m) != "studies"}

def test_the_pages_sidebar_lists_every_notebook():
    said = (NOTEBOOKS/"sidebar.yml").read_text()
    assert {f"{n}.ipynb" for n in notebooks()} == set(re.findall(r"- (\S+\.ipynb)", said))

def test_links_between_notebooks_lead_somewhere():
    lost = []
    for path in NOTEBOOKS.rglob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf8"))["cells"]:
            links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", "".join(cell["source"])) if cell["cell_type"] == "markdown" else []
            lost += [f"{path.relative_to(NOTEBOOKS)}: {link}" for link in links if not (path.parent/link).exists()]
    assert not lost, lost

def test_what_the_model_only_imports_is_imported_from_where_it_is():
    "What a notebook takes from `model` is defined there; blocks come from `engine.blocks`. `ModelConfig` is part of what `model` promises."
    own = set(ast.literal_eval(re.search(r"__all__ = (\[.*?\])", (LIBRARY/"model.py").read_text(encoding="utf8"), re.S)[1])) | {"ModelConfig"}
    wrong = {}
    for name, cells in notebooks().items():
        lines = re.findall(r"^from hebrewgpt_nb\.model import (.+)$", "\n".join(cells), re.M)
        if others := {n.strip() for line in lines for n in line.split(",")} - own: wrong[name] = others
    assert not wrong, wrong

DRAWS_NAMES = {"00_data", "01_tokenizer", "03_generate", "04_pretrain", "06_eval", "08_widgets", "12_making", "studies/4_tokenizers", "text/5_mixture", "text/7_prefixes", "evaluation/8_reports"}

def test_hebrew_in_plots_is_drawn_by_one_helper():
    "Labels that come from data go through `core.plot_label`; none is turned round by hand."
    code = {name: "\n".join(cells) for name, cells in notebooks().items()}
    assert {name for name, text in code.items() if "plot_label(" in text or "plot_label)" in text or "plot_label," in text} == DRAWS_NAMES | {"core/0_core"}
    assert not [name for name, text in code.items() if re.search(r"lambda (\w+): \1\[::-1\]|get_display", text)]
