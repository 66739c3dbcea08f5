"""Cut the demo grid and the small read sets of meterwatch/data from the published originals.

    python tools/make_cuts.py --simbench DIR --bamberg FILE.parquet --out meterwatch/data

Promises: the same originals give the same bytes; every meter is one real SimBench load on its real transformer (kVA
kept) and feeder; every energy value is a real Bamberg value, rounded half-even to whole Wh. What SimBench does not
know (phase, meter rating, contract, communication) is added by the rules below and named in ORIGIN.md. Needs pyarrow,
which meterwatch itself does not.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

# Four of the eight feeders; of line 45, which has 1,140 loads, only the district types LV1 and LV4.
FEEDERS = {"MV1.101 Line 22": "LV", "MV1.101 Line 37": "LV", "MV1.101 Line 45": "LV1 LV4", "MV1.101 Line 68": "LV"}
DISTRICTS = {"MV1.101 Line 22": "WEST", "MV1.101 Line 37": "WEST", "MV1.101 Line 45": "EAST", "MV1.101 Line 68": "EAST"}
COMM_MODES = ("PLC", "RF mesh", "4G", "PLC", "RF mesh")  # by transformer, in file order: 2/5, 2/5, 1/5
RF_TRANSFORMERS_PER_CONCENTRATOR = 3
RATED_A = {1: 100, 3: 80}  # direct-connected meters 5(100) A and 3 x 5(80) A
CONTRACT_KW = (9.2, 11.5, 13.8, 17.3, 20.7, 23.0, 27.6, 34.5, 41.4, 55.2)  # 230 V x 40..240 A
# Contract >= this x the highest 15-min demand of the shape: an overloaded district need not break contracts.
CONTRACT_MARGIN = 3.5

SHAPES = 120
SHAPE_FROM_CET = "2018-11-13T00:00"  # a Tuesday and a Wednesday
SHAPE_DAYS = 2
SHAPE_PEAK_KW_MAX = 6.9
SHAPE_DAY_KWH = (3.0, 34.0)
CUT_FROM_CET = "2018-12-10T00:00"  # the last week: the climb of 2046645
CUT_DAYS = 7
CUT_ORDINARY = 28
NEGATIVE = "9717902"  # 15 negative reads, spread over all seven weeks: carried whole
CLIMBING = "2046645"  # carried whole
FRACTIONAL = "2519845"  # the only meter with fractions of a Wh

INTERVAL_S = 900
PER_DAY = 86_400 // INTERVAL_S
CET_S = 3_600  # winter time: UTC = CET - 1 h


def write_csv(path: Path, header: str, rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


def read_bamberg(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return meters (sorted), interval ends [n] (UTC epoch s) and kWh [meters, n]; the original is a complete grid."""
    table = pq.read_table(path, columns=["meter_id", "interval_start_cet", "kwh"])
    ids = np.array(table["meter_id"].cast("string").to_pylist())
    start_s = table["interval_start_cet"].to_numpy().astype("datetime64[s]").astype(np.int64)
    meters, rows = np.unique(ids, return_inverse=True)
    order = np.lexsort((start_s, rows))
    grid = start_s[order].reshape(len(meters), -1)
    if not ((grid == grid[0]).all() and (np.diff(grid[0]) == INTERVAL_S).all()):
        raise SystemExit(f"{path}: expected a complete 15-minute grid with the same times for every meter")
    end_s = grid[0] - CET_S + INTERVAL_S
    return [str(m) for m in meters], end_s, table["kwh"].to_numpy()[order].reshape(len(meters), -1)


def to_wh(kwh: np.ndarray) -> np.ndarray:
    """Round kWh to whole Wh, half to even, on the decimal value of the original and not on its binary noise."""
    micro = np.rint(kwh * 1e6).astype(np.int64)  # exact: the original has at most six decimals
    whole, rest = np.divmod(micro, 1000)
    return whole + ((rest > 500) | ((rest == 500) & (whole % 2 == 1)))


def window(end_s: np.ndarray, start_cet: str, days: int) -> slice:
    first = int(np.datetime64(start_cet, "s").astype(np.int64)) - CET_S + INTERVAL_S
    at = int(np.searchsorted(end_s, first))
    return slice(at, at + days * PER_DAY)


def ordinary(meters: list[str], wh: np.ndarray) -> list[int]:
    """Return the rows that look like plain households over the whole seven weeks."""
    daily_kwh = wh.reshape(len(wh), -1, PER_DAY).sum(axis=2) / 1000
    low, high = SHAPE_DAY_KWH
    odd = np.isin(meters, [NEGATIVE, CLIMBING, FRACTIONAL])
    keep = (wh >= 0).all(axis=1) & ((wh == 0).mean(axis=1) < 0.05) & (daily_kwh.min(axis=1) > low / 4)
    keep &= (np.median(daily_kwh, axis=1) > low) & (np.median(daily_kwh, axis=1) < high)
    return [int(i) for i in np.flatnonzero(keep & ~odd)]


def cut_reads(bamberg: Path, out: Path) -> np.ndarray:
    """Write both read files; return the shapes, Wh [SHAPES, 192]."""
    meters, end_s, kwh = read_bamberg(bamberg)
    wh = to_wh(kwh)
    plain = ordinary(meters, wh)
    days = window(end_s, SHAPE_FROM_CET, SHAPE_DAYS)
    shapes = [i for i in plain if wh[i, days].max() * 3600 / INTERVAL_S / 1000 <= SHAPE_PEAK_KW_MAX]
    shapes = [i for i in shapes if wh[i, days].sum() / SHAPE_DAYS / 1000 >= SHAPE_DAY_KWH[0]][:SHAPES]
    np.savez_compressed(
        out / "bamberg_two_days.npz",
        meter=np.array([meters[i] for i in shapes]),
        end_s=end_s[days],
        wh=wh[shapes, days].astype(np.int32),
    )

    week = window(end_s, CUT_FROM_CET, CUT_DAYS)
    whole = slice(0, len(end_s))
    parts = [(meters.index(NEGATIVE), whole), (meters.index(CLIMBING), whole), (meters.index(FRACTIONAL), week)]
    parts += [(i, week) for i in plain[:CUT_ORDINARY]]
    np.savez_compressed(
        out / "bamberg_cut.npz",
        meter=np.array([meters[i] for i, _ in parts]),
        meter_index=np.concatenate([np.full(len(end_s[s]), k, np.uint32) for k, (_, s) in enumerate(parts)]),
        end_s=np.concatenate([end_s[s] for _, s in parts]),
        wh=np.concatenate([wh[i, s] for i, s in parts]).astype(np.int64),
    )
    return np.asarray(wh[shapes, days])


def name(simbench: str) -> str:
    """Shorten 'MV1.101 Line 22' to 'MV1.101-L22'."""
    return simbench.replace(" Line ", "-L")


def natural(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def cut_grid(simbench: Path, out: Path, shapes: np.ndarray) -> None:
    loads = []
    for load in pq.read_table(simbench / "loads.parquet").to_pylist():
        types = FEEDERS.get(load["mv_feeder_line"], "")
        if load["lv_trafo"] and types and load["subnet"].startswith(tuple(types.split())):
            loads.append(load)
    loads.sort(key=lambda load: (natural(load["mv_feeder_line"]), natural(load["subnet"]), natural(load["name"])))
    lines = {line["name"]: line for line in pq.read_table(simbench / "lines.parquet").to_pylist()}

    write_csv(
        out / "feeders.csv",
        "feeder,substation,district,ampacity_a",
        [(name(f), "HV1-MV1.101", DISTRICTS[f], round(lines[f]["max_i_ka"] * 1000)) for f in FEEDERS],
    )
    transformers: dict[str, dict[str, Any]] = {load["subnet"]: load for load in loads}
    write_csv(
        out / "transformers.csv",
        "transformer,feeder,rated_kva,winding,district",
        [
            (t, name(x["mv_feeder_line"]), round(x["lv_trafo_kva"]), "Yyn0" if x["lv_trafo_kva"] < 250 else "Dyn11",
             DISTRICTS[x["mv_feeder_line"]])
            for t, x in transformers.items()
        ],
    )  # fmt: skip

    mode = {t: COMM_MODES[k % len(COMM_MODES)] for k, t in enumerate(transformers)}
    concentrator: dict[str, str] = {}
    rf_seen: dict[str, int] = {}
    for t, x in transformers.items():
        if mode[t] == "PLC":  # power-line signals do not pass a transformer: one each
            concentrator[t] = f"DC-PLC-{t[2:]}"
        elif mode[t] == "RF mesh":  # a radio reaches its neighbours on the same feeder
            feeder = name(x["mv_feeder_line"]).removeprefix("MV1.101-")
            k = rf_seen[feeder] = rf_seen.get(feeder, -1) + 1
            concentrator[t] = f"DC-RF-{feeder}-{k // RF_TRANSFORMERS_PER_CONCENTRATOR + 1}"
    write_csv(
        out / "concentrators.csv",
        "concentrator,head_end,comm_mode",
        [(c, "HES-1", m) for c, m in {concentrator[t]: mode[t] for t in concentrator}.items()],
    )
    write_csv(out / "head_ends.csv", "head_end,time_zone,late_window_days", [("HES-1", "Europe/Berlin", 45)])

    peak_kw = shapes.max(axis=1) * 3600 / INTERVAL_S / 1000
    meters = []
    for k, load in enumerate(loads):
        t = load["subnet"]
        phases = "ABC" if k % 10 == 9 else "ABC"[k % 3]
        wanted_kw = max(load["p_mw"] * 1000, CONTRACT_MARGIN * peak_kw[k % len(shapes)])
        number = f"71{t[2]}{t[4:7]}{natural(load['name'])[-1]:06d}"
        installed = f"{2014 + k % 9}-{1 + k * 7 % 12:02d}-{1 + k * 11 % 28:02d}"
        contract_kw = next(step for step in CONTRACT_KW if step >= wanted_kw)
        meters.append(
            (number, t, phases, 230, RATED_A[len(phases)], contract_kw, 1, INTERVAL_S, installed,
             f"residential-{len(phases)}p", mode[t], concentrator.get(t, ""), "HES-1")
        )  # fmt: skip
    write_csv(
        out / "meters.csv",
        "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
        "concentrator,head_end",
        meters,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut the demo grid and read sets from the published originals.")
    parser.add_argument("--simbench", type=Path, required=True, help="directory with loads.parquet and lines.parquet")
    parser.add_argument("--bamberg", type=Path, required=True, help="the 537-meter parquet file")
    parser.add_argument("--out", type=Path, required=True, help="writes grid/*.csv and reads/*.npz below it")
    args = parser.parse_args()
    (args.out / "grid").mkdir(parents=True, exist_ok=True)
    (args.out / "reads").mkdir(parents=True, exist_ok=True)
    shapes = cut_reads(args.bamberg, args.out / "reads")
    cut_grid(args.simbench, args.out / "grid", shapes)


if __name__ == "__main__":
    main()
