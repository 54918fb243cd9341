"""How far a model's perplexity depends on the text it was calibrated on, by the embedded model.

  python3 bench/solver/calibration_spread.py build/release/bin/nibble [METHODS]         # about ten minutes on two cores

Calibrates each method on the whole embedded text and on each of its five novels alone; prints the mean over the six of
the perplexity on the whole evaluation text, its standard deviation, and the same of the divergence from fp32.
"""
import json, pathlib, statistics, subprocess, sys, tempfile

tool = sys.argv[1]
methods = sys.argv[2] if len(sys.argv) > 2 else "gptq-4-g128,gptq-4-g128-act,gptq-4-g128-sym,gptq-4-g128-sym-act"
text = (pathlib.Path(__file__).resolve().parents[2] / "examples/data/calibration.txt").read_bytes()
part = len(text) // 5
rows = {}
with tempfile.TemporaryDirectory() as folder:
    calibration, figures = pathlib.Path(folder) / "text", pathlib.Path(folder) / "figures.json"
    for piece in [text] + [text[i * part : (i + 1) * part] for i in range(5)]:
        calibration.write_bytes(piece)
        subprocess.run([tool, "compare", "--methods", methods, "--tokens", "0", "--calibration", calibration,
                        "--json", figures], check=True, stdout=subprocess.DEVNULL)
        for row in json.loads(figures.read_text())["rows"]:
            rows.setdefault(row["method"], []).append((row["perplexity"], row["kl_mean"]))
for method, values in rows.items():
    perplexities, divergences = zip(*values)
    print(f"{method:24} perplexity {statistics.mean(perplexities):.4f} ± {statistics.stdev(perplexities):.4f}, "
          f"KL {statistics.mean(divergences):.6f} ± {statistics.stdev(divergences):.6f}")
