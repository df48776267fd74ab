"""The bandwidth that a passenger of a commuter train gets over LTE, second by second.

``python -m faults.commuter_train > faults/catalog/commuter-train.trace`` makes the bundled trace.

The model is that of 3GPP TR 36.942 (V16), with its parameters: sites 1732 m apart along the track
(TR 36.814, case 3); path loss 128.1 + 37.6 log10(km) dB; shadowing of 10 dB with half of it common
to all sites and a correlation over 50 m; 46 dBm and 15 dBi at the site, 20 dB lost through the
coach, a noise figure of 9 dB; the strongest site serves and all others interfere; and the
throughput of a 10 MHz carrier is 0.6 of Shannon's bound, nothing below -10 dB and 4.4 bit/s/Hz at
most. Our own are the train (20 m/s, 30 s at a station every 2500 m), the share of the cell that a
passenger gets (a quarter), and the distance of the sites from the track (50 m).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

SECONDS = 900
SEED = 36_942
SPEED_MPS = 20.0
STATION_EVERY_M, STOP_S = 2_500.0, 30
SITE_EVERY_M, SITE_ASIDE_M = 1_732.0, 50.0
SHADOWING_DB, SHADOWING_OVER_M = 10.0, 50.0
POWER_DBM, GAIN_DBI, COACH_DB, NOISE_FIGURE_DB = 46.0, 15.0, 20.0, 9.0
CARRIER_HZ, SHARE = 10e6, 0.25
OF_SHANNON, LEAST_DB, MOST_BPS_PER_HZ = 0.6, -10.0, 4.4


def positions() -> Iterator[float]:
    """Where the train is at each second, in meters."""
    place_m, standing_s = 0.0, 0
    for _ in range(SECONDS):
        yield place_m
        if standing_s:
            standing_s -= 1
        else:
            stations = place_m // STATION_EVERY_M
            place_m += SPEED_MPS
            if place_m // STATION_EVERY_M > stations:
                standing_s = STOP_S


def bandwidths() -> Iterator[float]:
    """Bits per second at each second."""
    stream = random.Random(SEED)
    places = list(positions())
    sites_m = [index * SITE_EVERY_M for index in range(int(places[-1] / SITE_EVERY_M) + 2)]
    common, *own = (stream.gauss() for _ in range(len(sites_m) + 1))
    before_m = 0.0
    for place_m in places:
        kept = math.exp(-(place_m - before_m) / SHADOWING_OVER_M)
        fresh = math.sqrt(1 - kept * kept)
        common = kept * common + fresh * stream.gauss()
        own = [kept * one + fresh * stream.gauss() for one in own]
        before_m = place_m
        received_mw = [
            10 ** (_received_dbm(place_m - site_m, common, one) / 10)
            for site_m, one in zip(sites_m, own, strict=True)
        ]
        noise_mw = 10 ** ((-174 + 10 * math.log10(CARRIER_HZ) + NOISE_FIGURE_DB) / 10)
        best = max(received_mw)
        ratio = best / (sum(received_mw) - best + noise_mw)
        rate = min(OF_SHANNON * math.log2(1 + ratio), MOST_BPS_PER_HZ)
        yield SHARE * CARRIER_HZ * (rate if 10 * math.log10(ratio) >= LEAST_DB else 0.0)


def _received_dbm(along_m: float, common: float, own: float) -> float:
    distance_km = math.hypot(along_m, SITE_ASIDE_M) / 1000
    loss_db = 128.1 + 37.6 * math.log10(distance_km) + COACH_DB
    shadow_db = SHADOWING_DB * (common + own) / math.sqrt(2)
    return POWER_DBM + GAIN_DBI - loss_db - shadow_db


def lines() -> Iterator[str]:
    """The trace: seconds and Mbit/s."""
    yield "# A commuter train, by python -m faults.commuter_train: seconds, Mbit/s."
    for second, rate in enumerate(bandwidths()):
        yield f"{second} {rate / 1e6:.2f}"


if __name__ == "__main__":
    print("\n".join(lines()))
