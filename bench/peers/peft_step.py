"""One QLoRA run by PEFT and bitsandbytes on the CPU, to hold `nibble finetune` against: the same model, text, rank,
batches of the same size, optimizer and schedule. Prints a line a step, then the median time of a step and the peak memory.

  pip install torch transformers peft accelerate bitsandbytes
  python peft_step.py MODEL TEXT [--threads 2] [--steps 20] [--batch 4] [--length 512] [--base nf4|fp32] [--adapter OUT]

MODEL is a model directory of the byte tokenizer (examples/data/austen-5m): a token is a byte. The text is cut into rows of
`length` tokens, which are taken in their order; every token but a row's first is predicted. bitsandbytes' 8-bit AdamW
needs a GPU for speed, and its CPU path is not made for it, so torch's AdamW is used: it makes the peer faster, not slower.
"""
import argparse, pathlib, resource, statistics, time
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, get_linear_schedule_with_warmup

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--length", type=int, default=512)
    p.add_argument("--base", default="nf4")
    p.add_argument("--rate", type=float, default=1e-3)
    p.add_argument("--no-checkpointing", action="store_true")
    p.add_argument("--adapter")
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    quantized = dict(quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32)) if o.base == "nf4" else {}
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32, device_map="cpu", **quantized)
    if o.base == "nf4":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=not o.no_checkpointing)
    elif not o.no_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=TARGETS,
                                             task_type="CAUSAL_LM"))
    model.print_trainable_parameters()
    model.train()
    ids = torch.frombuffer(bytearray(pathlib.Path(o.text).read_bytes()), dtype=torch.uint8).long()
    rows = ids[:len(ids) // o.length * o.length].reshape(-1, o.length)
    trained = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=o.rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, max(1, round(0.03 * o.steps)), o.steps)
    seconds = []
    for step in range(o.steps):
        begin = time.perf_counter()
        at = step * o.batch % (len(rows) - o.batch + 1)
        batch = rows[at:at + o.batch]
        optimizer.zero_grad()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        schedule.step()
        seconds.append(time.perf_counter() - begin)
        print(f"step {step + 1:3d}  loss {float(loss):.4f}  {seconds[-1]:.3f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"median of a step {statistics.median(seconds[1:]):.3f} s, peak memory {peak:.0f} MB")
    if o.adapter:
        model.save_pretrained(o.adapter)


main()
