import math

import pytest

from fedcore.errors import ConfigError
from fedcore.strategy import peer_name
from sims.world.network import NETWORKS, Ideal, LogNormal, Pipe, Trace, Uniform
from sims.world.site import Site


def site(index: int) -> Site:
    return Site(peer_name(index), index, 0)


def test_a_message_takes_latency_and_bytes_over_rate():
    pipe = Uniform(latency_s=0.5, up_bytes_per_s=100.0, down_bytes_per_s=400.0).pipe(
        site(0), 0.0
    )
    assert pipe.down_s(1000) == 0.5 + 2.5
    assert pipe.up_s(1000) == 0.5 + 10.0


def test_an_ideal_network_takes_no_time():
    pipe = Ideal().pipe(site(0), 3.0)
    assert (pipe.down_s(10**12), pipe.up_s(10**12), pipe.loss) == (0.0, 0.0, 0.0)


def test_lognormal_rates_differ_by_peer_with_the_median_asked_for():
    model = LogNormal(up_bytes_per_s=1000.0, sigma=1.0)
    rates = sorted(model.pipe(site(i), 0.0).up_bytes_per_s for i in range(1001))
    assert rates[500] == pytest.approx(1000.0, rel=0.15)
    spread = math.log(rates[841] / rates[159]) / 2  # 16 % to 84 % is two sigmas
    assert spread == pytest.approx(1.0, rel=0.15)
    assert model.pipe(site(3), 0.0) == model.pipe(site(3), 99.0)


def test_a_trace_gives_pipes_by_device_and_time(tmp_path):
    path = tmp_path / "net.csv"
    path.write_text(
        "index,latency_s,up_bytes_per_s,down_bytes_per_s,loss,time_s\n"
        "0,0.1,10,20,,0\n0,0.2,30,40,0.5,60\n"
    )
    model = Trace(str(path), notice_s=5.0)
    assert model.pipe(site(0), 59.0) == Pipe(0.1, 10, 20, 0.0, 5.0)
    assert model.pipe(site(0), 60.0) == Pipe(0.2, 30, 40, 0.5, 5.0)


def test_a_damaged_trace_is_refused_with_the_line(tmp_path):
    path = tmp_path / "net.csv"
    path.write_text("index,latency_s,up_bytes_per_s,down_bytes_per_s\n0,0.1,0,20\n")
    with pytest.raises(ConfigError, match="line 2: up_bytes_per_s"):
        Trace(str(path))
    path.write_text(
        "index,latency_s,up_bytes_per_s,down_bytes_per_s,loss\n0,0.1,9,20,7\n"
    )
    with pytest.raises(ConfigError, match="probability"):
        Trace(str(path))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(latency_s=-1.0),
        lambda: Uniform(latency_s=math.nan),
        lambda: Uniform(up_bytes_per_s=0.0),
        lambda: Uniform(down_bytes_per_s=math.nan),
        lambda: Uniform(loss=1.5),
        lambda: Uniform(notice_s=0.0),
        lambda: LogNormal(sigma=-1.0),
        lambda: LogNormal(loss=-0.5),
    ],
)
def test_impossible_networks_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_the_registry_names_every_model():
    assert sorted(NETWORKS) == ["ideal", "lognormal", "trace", "uniform"]
