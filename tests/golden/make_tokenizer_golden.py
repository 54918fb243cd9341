"""Writes the golden files of the tokenizers with the real tokenizers and sentencepiece libraries.

  pip install tokenizers sentencepiece
  Rscript ../../../examples/data/train/export_texts.R texts/
  python make_tokenizer_golden.py --texts texts/        # writes a folder for each tokenizer beside this file

  gpt2           byte-level BPE, GPT-2's own pattern; merges as "a b" strings (the older form of tokenizer.json)
  llama3         byte-level BPE, Llama 3's pattern, ignore_merges, a begin-of-text token from the post-processor
  qwen2          byte-level BPE, NFC, Qwen2's pattern
  smollm2        byte-level BPE, single digits split off, then GPT-2's pattern
  sentencepiece  SentencePiece BPE with byte fallback and a dummy prefix, as Llama 2's tokenizer.model
  unigram        SentencePiece unigram with a character map, user-defined symbols and white space at the end of pieces
  json_llama2    the BPE of "sentencepiece" as tokenizer.json, with a normalizer that puts the space there (Llama 2)
  json_mistral   the same with a Metaspace pre-tokenizer (Mistral, newer Llama 2)
  json_gemma     the same without a space before the text (Gemma)
  json_t5        the unigram of "unigram" as tokenizer.json, with its character map (T5)

The vocabularies are small and trained on one novel with some other languages, code and digits. cases.json is a list of
  text             the input
  ids              its tokens, without the special tokens that a post-processor adds
  ids_with_special with them (for SentencePiece: after the begin-of-sequence token)
  decoded          the text that the library makes of ids, special tokens kept
"""
import argparse, io, json, pathlib, tempfile
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCABULARY = 620
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

OTHER_TEXT = [
    "L'été dernier, nous étions à Genève; où êtes-vous allés? Ça va très bien, merci.",
    "Die Straße über die Brücke ist schön, aber größer als früher.",
    "В начале было слово, и слово было хорошее.", "Στην αρχή ήταν ο λόγος.",
    "今日は良い天気ですね。東京へ行きました。", "我们今天去北京，天气很好。", "오늘은 날씨가 좋습니다.",
    "في البداية كانت الكلمة، وكانت الكلمة جميلة.", "नमस्ते दुनिया, आप कैसे हैं?", "שלום עולם",
    "for (int i = 0; i < 100; ++i) {\n    total += values[i] * 2;\n}\n", "def f(x):\n\treturn x ** 2\n",
    "0 1 2 10 12 42 100 123 1000 1234 1999 2000 2024 3.14159 65536 1,000,000", "👍 😀 🎉 ❤️ 👨‍👩‍👧 🇨🇭",
]

TEXTS = [
    "", " ", "  ", "   x", "x ", "x   ", "a  b   c    d", "Hello, world!", "\n", "\n\n\n", "a\nb\r\nc\rd", " \n \n  x", "x \n\n y\t",
    "\t\tif (x) {\n\t\t\treturn y;\n\t\t}\n", "    four spaces\n        eight",
    "I'm sure you've heard they'd say it's what we'll do, isn't it? You're right.",
    "I'M SURE YOU'VE HEARD THEY'D SAY IT'S WHAT WE'LL DO, ISN'T IT? 'tis 'twas o'clock ''s '' 'sss 's't",
    "it\u2019s a right single quote; \u2018single\u2019 \u201cdouble\u201d \u2014 dash\u2026",
    "1 12 123 1234 12345 123456 1234567 12345678 123456789 1234567890 12345678901 123456789012",
    "3.14159, -2.5e-10, 0xFF, 1,000,000.00, 50%, $9.99, 1st 2nd x86_64 a1b22c333",
    "½ ¼ ² ³ Ⅷ ٣٤٥ ०१२ １２３ ①②",
    "She was a most amiable young woman, and Mr. Darcy could not think of Netherfield without regret.",
    "Catherine Netherfield NETHERFIELD netherfield",
    "今日は良い天気ですね。東京タワー、大阪。", "我们今天去北京，天气很好！", "오늘은 날씨가 좋습니다", "\u1112\u1161\u11ab\u1100\u1173\u11af jamo",
    "في البداية كانت الكَلِمَةُ الجميلة؟", "שָׁלוֹם עוֹלָם", "नमस्ते दुनिया क्षि", "ไม่เป็นไร", "Привет, как дела? Ёжик й и\u0306",
    "café cafe\u0301 ÅA\u030a\u212b \u1e69 s\u0323\u0307 s\u0307\u0323 \u0344 n\u0303o", "\u0301starts with an accent", "ﬁ ﬂ ｶﾞ Ａ①㎏",
    "👍👍🏽 😀 ❤️ 👨‍👩‍👧‍👦 🏳️‍🌈 🇨🇭🇫🇷 1️⃣", "zero\u200bwidth\u200d \ufeffbom soft\u00adhyphen",
    "nbsp\u00a0\u00a0x \u3000ideographic \u2003em \u2028line\u2029par \u0085nel \u000bvt \u000cff", "\u0000nul\u0001 \u007f",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠜎 \U0010ffff", "def f(x):\n    return {k: v**2 for k, v in x.items() if k != 'a'}  # ok\n",
    "https://example.org/a?b=c&d=%20#e user@example.org ~/x/../y", "!!!??? ... ---- ==== <<>> [[]] {{}} /* */ \\n \\",
    "ALLCAPS CamelCase snake_case kebab-case MiXeD ünïcödé", "▁ already ▁▁ here", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]
SPECIAL_TEXTS = ["{0}", "Hello{0}world", "Hello {0} world", "{0}{0}\n{1}", " {1} \n\n{1}", "<|not_special|> {1}x{0}",
                 "cut short: " "{0}"]


def bpe(texts, pre_tokenizer, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer: tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated", invert=False), byte_level(False)])


def make_gpt2(texts):
    tokenizer = bpe(texts, byte_level(True))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=True, special=True)])
    return edit(tokenizer, string_merges), ["<|endoftext|>", "<|endoftext|>"]


def make_llama3(texts):
    tokenizer = bpe(texts, split(LLAMA3))
    # Words of the vocabulary that no merge makes: ignore_merges must find them whole.
    tokenizer = edit(tokenizer, lambda d: (whole_words(d, ["ĠNetherfield", "Catherine", "Ġregret"]), d["model"].update(ignore_merges=True)))
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    begin = tokenizer.token_to_id(special[0])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{special[0]} $A", pair=f"{special[0]} $A {special[0]}:1 $B:1",
                                      special_tokens=[(special[0], begin)])])
    return tokenizer, ["<|begin_of_text|>", "<|eot_id|>"]


def make_qwen2(texts):
    tokenizer = bpe(texts, split(QWEN2), normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    tokenizer.add_tokens([AddedToken(s, normalized=False) for s in ["<tool_call>", "</tool_call>"]])
    return edit(tokenizer, string_merges), ["<|im_start|>", "</tool_call>"]


def make_smollm2(texts):
    tokenizer = bpe(texts, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    return tokenizer, ["<|im_start|>", "<|im_end|>"]


def edit(tokenizer, change):
    description = json.loads(tokenizer.to_str())
    change(description)
    return Tokenizer.from_str(json.dumps(description))


def string_merges(description):
    """The form that files carry from before tokenizers 0.20; kept by write()."""
    description["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in description["model"]["merges"]]


def whole_words(description, words):
    vocabulary = description["model"]["vocab"]
    for word in words:
        if word not in vocabulary: vocabulary[word] = len(vocabulary)


def write(folder, tokenizer, special, older_form):
    folder.mkdir(exist_ok=True)
    description = json.loads(tokenizer.to_str())
    if older_form: string_merges(description)
    (folder / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # the cases come from the file as it lies on the disk
    cases = []
    for text in TEXTS + [t.format(*special) for t in SPECIAL_TEXTS]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append(dict(text=text, ids=ids, ids_with_special=tokenizer.encode(text).ids,
                          decoded=tokenizer.decode(ids, skip_special_tokens=False)))
    save_cases(folder, cases)
    print(f"{folder.name}: {tokenizer.get_vocab_size()} tokens, {len(cases)} cases, "
          f"{sum(c['decoded'] == c['text'] for c in cases)} decode to their text")


def save_cases(folder, cases):
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (folder / "cases.json").write_text(f"[\n{lines}\n]\n")


def make_sentencepiece(folder, texts):
    folder.mkdir(exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=512, character_coverage=0.995,
        byte_fallback=True, split_digits=True, add_dummy_prefix=True, remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, normalization_rule_name="identity", unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        unk_surface=" \u2047 ", num_threads=1, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    cases = []
    for text in TEXTS + ["<s>", "</s> a<unk>b <0x41>"]:
        ids = processor.encode(text)
        cases.append(dict(text=text, ids=ids, ids_with_special=[processor.bos_id()] + ids, decoded=processor.decode(ids)))
    save_cases(folder, cases)
    print(f"{folder.name}: {processor.get_piece_size()} tokens, {len(cases)} cases, "
          f"{sum(c['decoded'] == c['text'] for c in cases)} decode to their text")


def make_unigram(folder, texts):
    folder.mkdir(exist_ok=True)
    rules = [("ﬁ", "fi"), ("ﬂ", "fl"), ("①", "1"), ("㎏", "kg"), ("\u212b", "\u00c5"), ("e\u0301", "é"), ("\u3000", " "), ("\u00a0", " "),
             ("\n", " "), ("\t", " "), ("\u00ad", ""), ("…", "..."), ("½", " 1/2")]
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as tsv:
        for before, after in rules:
            tsv.write(" ".join(f"{ord(c):X}" for c in before) + "\t" + " ".join(f"{ord(c):X}" for c in after) + "\n")
        tsv.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type="unigram", vocab_size=400, character_coverage=0.99,
            normalization_rule_tsv=tsv.name, user_defined_symbols=["Darcy", "ab", "aba", "<sep>"], control_symbols=["<ctl>"],
            treat_whitespace_as_suffix=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    cases = []
    for text in TEXTS + ["abab ababa <sep>Darcy's", "<ctl> <s>"]:
        ids = processor.encode(text)
        cases.append(dict(text=text, ids=ids, ids_with_special=[processor.bos_id()] + ids, decoded=processor.decode(ids)))
    save_cases(folder, cases)


def protobuf(data):
    """The fields of a message."""
    at = 0
    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]; at += 1
            value |= (byte & 127) << shift; shift += 7
            if byte < 128: return value
    while at < len(data):
        tag = number()
        if tag & 7 == 0: yield tag >> 3, number(); continue
        size = number() if tag & 7 == 2 else 4 if tag & 7 == 5 else 8
        yield tag >> 3, data[at:at + size]; at += size


def convert_bpe(model):
    """What transformers makes of SentencePiece's BPE: every way to cut a piece into two is a merge, best pieces first."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = [(-processor.get_score(i), i, ids[p[:k]], ids[p[k:]], p[:k], p[k:]) for i, p in enumerate(pieces)
              if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
              for k in range(1, len(p)) if p[:k] in ids and p[k:] in ids]
    return ids, [m[4:] for m in sorted(merges)]


def make_converted(here):
    def finish(name, tokenizer, special, template):
        tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<unk>", "<s>", "</s>")])
        tokenizer.add_tokens([AddedToken("<|im_start|>", normalized=False, rstrip=True)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>") if t in template])
        write(here / name, tokenizer, special, older_form=False)

    ids, merges = convert_bpe(here / "sentencepiece" / "tokenizer.model")
    to_text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = decoders.Sequence(to_text + [decoders.Strip(" ", 1, 0)])
    llama2 = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    llama2.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama2.decoder = strip
    finish("json_llama2", llama2, ["<s>", "<|im_start|>"], "<s> $A")
    mistral = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=False, byte_fallback=True))
    mistral.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", False)
    mistral.decoder = strip
    finish("json_mistral", mistral, ["<s>", "<|im_start|>"], "<s> $A")
    gemma = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    gemma.normalizer = normalizers.Replace(" ", "▁")
    gemma.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    gemma.decoder = decoders.Sequence(to_text)
    finish("json_gemma", gemma, ["</s>", "<|im_start|>"], "<s> $A </s>")

    model = here / "unigram" / "tokenizer.model"
    unigram = sentencepiece.SentencePieceProcessor(model_file=str(model))
    map_ = dict(protobuf(dict(protobuf(model.read_bytes()))[3]))[2]
    t5 = Tokenizer(models.Unigram([(unigram.id_to_piece(i), unigram.get_score(i)) for i in range(unigram.get_piece_size())],
                                  unk_id=0, byte_fallback=False))
    t5.normalizer = normalizers.Sequence([normalizers.Precompiled(map_), normalizers.Replace(Regex(" {2,}"), " ")])
    t5.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", True)
    t5.decoder = decoders.Metaspace("▁", "always", True)
    finish("json_t5", t5, ["</s>", "<|im_start|>"], "$A </s>")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--texts", type=pathlib.Path, required=True, help="folder of export_texts.R")
    a = args.parse_args()
    here = pathlib.Path(__file__).resolve().parent
    novel = (a.texts / "pride_and_prejudice.txt").read_text(encoding="utf-8")[:300_000]
    texts = [p.replace("\n", " ") for p in novel.split("\n\n") if p.strip()] + OTHER_TEXT * 20
    for make in (make_gpt2, make_llama3, make_qwen2, make_smollm2):
        name = make.__name__.removeprefix("make_")
        tokenizer, special = make(texts)
        write(here / name, tokenizer, special, older_form=name in ("gpt2", "qwen2"))
    make_sentencepiece(here / "sentencepiece", texts)
    make_unigram(here / "unigram", texts)
    make_converted(here)


if __name__ == "__main__":
    main()
