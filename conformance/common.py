"""What the runners share: the vectors, a book of comparisons, and stand-ins for packages that the functions do not need."""

import importlib.machinery
import importlib.metadata
import inspect
import json
import os
import sys
import types

HERE = os.path.dirname(os.path.abspath(__file__))

# Float64 throughout; see README.md for the reasons to allow more.
EXACT = 1e-9
FLOAT32 = 1e-6


def vectors():
    with open(os.path.join(HERE, "vectors.json")) as f:
        return json.load(f)["sets"]


def nothing(attr):
    """A class that can be inherited from, and that leaves what it decorates as it is."""
    if attr.startswith("__"):
        raise AttributeError(attr)
    new = lambda cls, *args, **_: args[0] if len(args) == 1 and callable(args[0]) else object.__new__(cls)
    return type(attr, (), {"__new__": new, "__init__": lambda *_, **__: None, "__call__": lambda self, f: f})


def stand_in(name):
    """A module of that name whose every attribute is a class without content, where the real package is not installed."""
    try:
        __import__(name)
        return
    except ImportError:
        pass
    parts = name.split(".")
    for k in range(1, len(parts) + 1):
        full = ".".join(parts[:k])
        if full in sys.modules:
            continue
        module = types.ModuleType(full)
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(full, None, is_package=True)
        module.__getattr__ = nothing
        sys.modules[full] = module
        if k > 1:
            setattr(sys.modules[".".join(parts[: k - 1])], parts[k - 1], module)


def where(f, text):
    """`FILE:LINE` of the first line of a function that holds a text, so that a report names the line of the version that ran."""
    f = inspect.unwrap(f)
    lines, first = inspect.getsourcelines(f)
    file = inspect.getsourcefile(f).split("site-packages/")[-1]
    for k, line in enumerate(lines):
        if text in line:
            return f"{file}:{first + k}"
    raise SystemExit(f"{file}: {f.__qualname__} does not hold {text!r}")


class Book:
    """Comparisons of one package, one a row."""

    def __init__(self, package):
        self.package, self.version = package, importlib.metadata.version(package)
        self.rows = []

    def compare(self, s, recipe, quantity, got, want, line, tolerance=EXACT):
        """The largest gap over the tokens that are not masked, judged by the largest number where that is above 1."""
        import torch

        got = torch.as_tensor(got, dtype=torch.float64).detach()
        want = torch.as_tensor(want, dtype=torch.float64)
        gap = got - want
        if gap.ndim == 2:
            gap = gap * torch.tensor(s["mask"], dtype=torch.float64)
        assert gap.shape == want.shape, (quantity, got.shape, want.shape)
        gap = gap.abs().max().item()
        self.rows.append(dict(
            set=s["name"], recipe=recipe, quantity=quantity, largest_gap=gap, largest_value=want.abs().max().item(),
            tolerance=tolerance, agrees=bool(gap <= tolerance * max(1.0, want.abs().max().item())), line=line))

    def skip(self, s, recipe, why):
        self.rows.append(dict(set=s["name"], recipe=recipe, quantity=None, why=why))

    def write(self):
        made = [r for r in self.rows if r["quantity"]]
        off = [r for r in made if not r["agrees"]]
        path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, f"{self.package}.json")
        with open(path, "w") as f:
            json.dump(dict(package=self.package, version=self.version, comparisons=self.rows), f, indent=1)
            f.write("\n")
        for r in off:
            print(f"differs: {r['set']}, {r['recipe']}, {r['quantity']}: {r['largest_gap']:.3g} ({r['line']})")
        print(f"{self.package} {self.version}: {len(made)} comparisons, {len(made) - len(off)} agree, {len(off)} differ; written to {path}")
