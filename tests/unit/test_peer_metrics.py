"""What Prometheus reads of a node, read with its own parser."""

from prometheus_client.parser import text_string_to_metric_families

from clients.peer.metrics import as_prometheus

STATUS = {
    "members": 2,
    "alive": 2,
    "entries": 7,
    "writers": 2,
    "memory_bytes": 123_456_789,
    "uptime_s": 12.5,
    "state": "direct",
    "forks": [],
    "counts": {"path": 3},
    "runs": [{"run": "digits", "additions": 4}],
    "content_bytes": 10,
}


def peer(path, name, moved):
    figures = {"up_bytes": moved, "down_bytes": 2 * moved, "rtt_s": 0.05}
    return {"peer": "12D3Ann", "path": path, "name": name} | figures


def series(path, name, moved):
    text = as_prometheus(STATUS | {"peers": [peer(path, name, moved)]})
    families = text_string_to_metric_families(text)
    rows = [sample for family in families for sample in family.samples]
    return {(row.name, *sorted(row.labels.items())): row.value for row in rows}


def test_every_line_is_what_prometheus_reads():
    found = series("direct (punched)", 'a "quoted"\nname\\', 5)
    assert found["fedcore_state", ("state", "direct")] == 1
    assert found["fedcore_memory_bytes",] == 123_456_789
    assert found["fedcore_uptime_seconds",] == 12.5
    assert found["fedcore_content_bytes",] == 10
    assert found["fedcore_notes_total", ("kind", "path")] == 3
    labels = {"peer": "12D3Ann", "path": "direct", "name": 'a "quoted"\nname\\'}
    assert found["fedcore_peer_info", *sorted(labels.items())] == 1


def test_a_counter_goes_on_whatever_a_peer_is_called_and_however_reached():
    one = series("relayed by 12D3Rel", "ann", 5)
    other = series("direct (punched)", "anna", 6)
    changed = {key[0] for key in one.keys() ^ other.keys()}
    assert changed == {"fedcore_peer_info"}
    ann = ("peer", "12D3Ann")
    assert (
        one["fedcore_up_bytes_total", ann],
        one["fedcore_down_bytes_total", ann],
    ) == (5, 10)
    assert other["fedcore_rtt_seconds", ann] == 0.05
