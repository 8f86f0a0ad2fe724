"""The rooms of the package: who may import whom, how long things may be, and what must say what it is.

The table below is the one of docs/architecture.md; a test holds the two together.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "handrail"
EVERYTHING = "everything"

ROOMS: dict[str, str] = {  # in the order in which they may import each other
    "errors": "",
    "config": "errors",
    "records": "",
    "algo": "",
    "batch": "errors",
    "parallel": "errors",
    "data": "errors config records batch",
    "models": "errors config algo batch",
    "rollout": "errors config batch models",
    "track": "errors config records",
    "doctor": "errors records track",
    "evaluate": "errors config records batch algo data models rollout track",
    "recipes": "errors config records algo batch parallel data models rollout track doctor evaluate",
    "tasks": "errors records",
    "feedback": "errors records",
    "inspector": "errors config records track doctor feedback",
    "pipeline": EVERYTHING,
    "selftest": EVERYTHING,
    "compare": EVERYTHING,
    "search": EVERYTHING,
    "plan": EVERYTHING,
    "cli": EVERYTHING,
    "__main__": EVERYTHING,
}
WITHOUT_TORCH = ("errors", "config", "records", "doctor", "tasks", "feedback")
SHARED_BY_RECIPES = ("parts", "progress", "rewards", "divergence", "objectives", "experience", "mixing", "conversation", "preflight")
DOCUMENTED = ("algo", "batch", "errors", "records", "config")
FILE_LINES, FUNCTION_LINES = 400, 60

FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in FILES}


def module(path: Path) -> tuple[str, ...]:
    """src/handrail/algo/kl.py is ("algo", "kl"), src/handrail/algo/__init__.py is ("algo",)."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, full dotted name) of everything that a file imports, wherever in it; `from a import b` gives a.b."""
    found = []
    here = ["handrail", *module(path)]
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return found


def own(path: Path) -> list[tuple[int, list[str]]]:
    """(line, name within the package) of what a file imports from Handrail itself."""
    return [(line, name.split(".")[1:]) for line, name in imports(path) if name.split(".")[0] == "handrail"]


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_file_belongs_to_a_room_and_every_room_exists():
    homes = {module(path)[0] for path in FILES if module(path)}
    assert homes - ROOMS.keys() == set(), "rooms that the table does not know"
    assert ROOMS.keys() - homes == set(), "rooms of the table without a file"


def test_a_room_imports_only_what_its_row_names():
    wrong = []
    for path in FILES:
        room = module(path)[0] if module(path) else ""
        allowed = set(ROOMS) if ROOMS.get(room) == EVERYTHING else {room, *ROOMS.get(room, "").split()}
        wrong += [
            f"{where(path, line)} imports {name[0]}" for line, name in own(path) if name and name[0] in ROOMS and name[0] not in allowed
        ]
    assert wrong == []


def test_rows_name_only_rooms_above_them():
    rooms = list(ROOMS)
    for number, (room, allowed) in enumerate(ROOMS.items()):
        if allowed != EVERYTHING:
            assert set(allowed.split()) <= set(rooms[:number]), room


def test_recipes_never_import_each_other():
    """A recipe may have further files whose names start as its own does, and shares only what is named as shared."""
    wrong = []
    for path in FILES:
        match module(path):
            case ("recipes", recipe, *_):
                for line, name in own(path):
                    other = name[1] if name[0] == "recipes" and len(name) > 1 else recipe
                    related = other in SHARED_BY_RECIPES or other.split("_")[0] == recipe.split("_")[0]
                    if not related or (recipe in SHARED_BY_RECIPES and other not in (recipe, *SHARED_BY_RECIPES)):
                        wrong.append(f"{where(path, line)} imports {'.'.join(name)}")
    assert wrong == []


def test_algo_imports_torch_and_nothing_else():
    wrong = []
    for path in FILES:
        if module(path)[:1] == ("algo",):
            outside = {name.split(".")[0] for _, name in imports(path)} - {"torch", "handrail", *sys.stdlib_module_names}
            wrong += [f"{path.name} imports {name}" for name in outside]
    assert wrong == []


def test_rooms_that_do_without_torch_do_not_load_it():
    code = f"import {', '.join(f'handrail.{room}' for room in WITHOUT_TORCH)}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "False"


def test_files_and_functions_are_short():
    long = []
    for path, tree in TREES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            long.append(f"{path.relative_to(ROOT)} has {lines} lines, {FILE_LINES} are allowed")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > FUNCTION_LINES:
                    long.append(f"{where(path, node.lineno)} {node.name} has {length} lines, {FUNCTION_LINES} are allowed")
    assert long == []


def test_no_file_is_a_drawer_for_everything():
    assert [str(p.relative_to(ROOT)) for p in FILES if p.stem in ("utils", "util", "helpers", "misc", "common")] == []


def test_public_things_of_the_core_say_what_they_are():
    silent = []
    for path, tree in TREES.items():
        if module(path)[:1] and module(path)[0] in DOCUMENTED:
            public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
            silent += [f"{where(path, n.lineno)} {n.name}" for n in public if not ast.get_docstring(n)]
            silent += [] if ast.get_docstring(tree) else [str(path.relative_to(ROOT))]
    assert silent == []


def documented_table() -> dict[str, str]:
    """Room to the rooms that it may import, as docs/architecture.md says."""
    rows: dict[str, str] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            room = cells[0].strip("`").removesuffix(".py").removesuffix("/")
            assert room not in rows, f"{room} stands in the table a second time"
            rows[room] = "" if cells[2] == "–" else " ".join(cells[2].split(", "))
    return rows


def test_the_document_says_the_same_as_this_table():
    rows = documented_table()
    assert rows == ROOMS
    assert list(rows) == list(ROOMS), "the order is part of the rule"


def test_the_document_names_only_files_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {word for word in text.split("`")[1::2] if word.endswith(".py")}
    assert named, "the walk through one step names its files"
    assert [name for name in sorted(named) if not ((PACKAGE / name).exists() or (ROOT / name).exists())] == []


def test_the_theory_covers_every_formula_and_points_at_what_exists():
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    pointed = {word for word in text.split("`")[1::2] if word.startswith("algo.")}
    public = {
        f"algo.{path.stem}.{node.name}"
        for path, tree in TREES.items()
        for node in tree.body
        if module(path)[:1] == ("algo",) and isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert pointed == public
    tests = {word for word in text.split("`")[1::2] if word.startswith("test_") and "." not in word}
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_algo_*.py"))
    assert tests and [name for name in sorted(tests) if f"def {name}(" not in code] == []


def test_the_map_of_correctness_names_only_tests_that_exist():
    text = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = {word for word in text.split("`")[1::2] if word.startswith("test_") and "." not in word}
    assert [name for name in sorted(named) if f"def {name}(" not in code] == []
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row.split(".")[0] for row in rows] == [f"| {number}" for number in range(1, 21)]
    assert all("`test_" in row for row in rows), "a statement without a test is a wish"


@pytest.mark.parametrize(
    "text, name",
    [
        ("import handrail.algo.kl", "handrail.algo.kl"),
        ("from handrail import algo", "handrail.algo"),
        ("from ..models import LanguageModel", "handrail.models.LanguageModel"),
        ("from . import parts", "handrail.recipes.parts"),
        ("def f():\n    from handrail.data import Codec", "handrail.data.Codec"),
    ],
)
def test_no_way_of_importing_escapes(text, name):
    path = PACKAGE / "recipes" / "imagined.py"
    TREES[path] = ast.parse(text)
    try:
        assert [found for _, found in imports(path)] == [name]
    finally:
        del TREES[path]
