"""Are the notebooks clean, and the library and README.md in step with them?  --write puts README.md in step."""
import re, shutil, subprocess, sys, tempfile
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
TRACKED = ("hebrewgpt_nb", "nbs", "settings.ini")


def readme() -> str:
    "README.md as `index.ipynb` says it, without cells that are hidden."
    nb = nbformat.read(ROOT/"nbs"/"index.ipynb", 4)
    nb.cells = [c for c in nb.cells if "#| hide" not in c.source]
    nb.metadata["language_info"] = {"name": "python"} # cleaned away in the notebook; colours its cells here
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\n{3,}", "\n\n", text)
    text = re.sub(r"\]\((?!\w+:|#|\.\./)([^)\s]+)\)", r"](nbs/\1)", text).replace("](../", "](") # links from nbs/ become links from the root
    return "<!-- made from nbs/index.ipynb by `make readme` -->\n\n" + text.strip() + "\n"


def files(root: Path) -> dict[str, bytes]:
    "Path -> content of what export and clean may change."
    return {str(p.relative_to(root)): p.read_bytes() for name in TRACKED for p in sorted([root/name, *(root/name).rglob("*")])
            if p.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in p.parts}


def main():
    if "--write" in sys.argv: (ROOT/"README.md").write_text(readme(), encoding="utf8")
    with tempfile.TemporaryDirectory() as d: # export and clean a copy, and compare
        for name in TRACKED: (shutil.copytree if (ROOT/name).is_dir() else shutil.copy)(ROOT/name, Path(d)/name)
        for command in ("nbdev_export", "nbdev_clean"): subprocess.run([Path(sys.executable).parent/command], cwd=d, check=True)
        ours, made = files(ROOT), files(Path(d))
    wrong = sorted(n for n in {*ours, *made} if ours.get(n) != made.get(n))
    if (ROOT/"README.md").read_text(encoding="utf8") != readme(): wrong.append("README.md")
    if wrong: sys.exit(f"not in step: {', '.join(wrong)}; run `make readme` and commit")
    print(f"{len(ours)} files and README.md are clean and in step")


if __name__ == "__main__": main()
