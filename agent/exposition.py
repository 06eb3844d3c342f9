"""Metrics as text, in the format that Prometheus reads (text format 0.0.4), with a limit on the values of each label.

A label's values never come to more than `LABEL_LIMIT`: what is beyond it is added up under `other`. Machines say
themselves what model they are, so a site of liars must not fill somebody's database.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LABEL_LIMIT = 100
VALUE_CHARACTERS = 60
OTHER = "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Metric:
    """One name with its samples. `kind` is gauge or counter."""

    name: str
    kind: str
    help: str
    samples: dict[Labels, float] = field(default_factory=dict)

    def set(self, value: float | None, **labels: str) -> None:
        """One sample; None is unknown, and is left out. Text is cut to `VALUE_CHARACTERS`."""
        if value is not None:
            key = tuple((name, text[:VALUE_CHARACTERS]) for name, text in labels.items())
            self.samples[key] = self.samples.get(key, 0.0) + value

    def text(self) -> str:
        """Its lines; none if there is no sample."""
        if not self.samples:
            return ""
        head = f"# HELP {self.name} {_plain(self.help)}\n# TYPE {self.name} {self.kind}\n"
        return head + "".join(
            f"{self.name}{_braces(labels)} {_number(value)}\n" for labels, value in self.samples.items()
        )


class Exposition:
    """All metrics of one moment, in the order in which they were added."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def gauge(self, name: str, description: str) -> Metric:
        """A number that goes up and down. `hashcost_` is put before the name."""
        return self._metric(name, "gauge", description)

    def counter(self, name: str, description: str) -> Metric:
        """A number that only grows while the process lives."""
        return self._metric(name, "counter", description)

    def _metric(self, name: str, kind: str, description: str) -> Metric:
        return self._metrics.setdefault(name, Metric(f"hashcost_{name}", kind, description))

    def text(self) -> str:
        """The whole page."""
        return "".join(metric.text() for metric in self._metrics.values())


def bounded(values: Iterable[str]) -> Mapping[str, str]:
    """Each value to the one that it is shown under: the most frequent under their own, the rest under `other`."""
    counts = Counter(values)
    kept = {value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:LABEL_LIMIT]}
    return {value: value if value in kept else OTHER for value in counts}


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in labels) + "}"


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    """A value of a label. What is no text at all (lone surrogates) is replaced, so that the page can be encoded."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return _plain(whole).replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
