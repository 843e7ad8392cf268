"""Reads metrics as Prometheus does, from standard input, and prints every sample: name, labels and value as JSON."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

families = list(text_string_to_metric_families(sys.stdin.read()))
names = [family.name for family in families]
assert len(names) == len(set(names)), "a family is there twice"
for family in families:
    assert family.type in ("counter", "gauge"), family
    assert family.documentation, family
    seen = set()
    for sample in family.samples:
        labels = tuple(sorted(sample.labels.items()))
        assert (sample.name, labels) not in seen, sample
        seen.add((sample.name, labels))
        print(json.dumps([sample.name, sample.labels, sample.value]))
