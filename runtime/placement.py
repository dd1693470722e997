"""tmp"""
import os

def settle(config, role):
    spec = dict(p.split("=") for p in open("/tmp/placement").read().strip().split(",") if p)
    cores = spec.get(f"{role}_core", spec.get("core"))
    if cores:
        os.sched_setaffinity(0, {int(c) for c in cores.split("+")})
    return int(spec.get(f"{role}_spin", spec.get("spin", "20"))) * 1000
