#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <map>

#include "tests/cuda_ptx/lexer.h"
#include "tests/cuda_ptx/program.h"

namespace nibble::cuda_ptx {

namespace {

std::vector<std::string> split(const std::string& opcode) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= opcode.size();) {
    const std::size_t end = std::min(opcode.find('.', begin), opcode.size());
    out.push_back(opcode.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

/// An array or a scalar that a directive declares: ".align 16 .b8 name[64]".
struct Variable {
  std::string name;
  std::size_t align = 1, element = 1, count = 1;
  [[nodiscard]] std::size_t bytes() const { return element * count; }
};

class Parser {
 public:
  explicit Parser(std::string_view text) : tokens_(tokenize(text)) {}

  Program parse() {
    while (at_ < tokens_.size()) directive();
    for (auto& [name, function] : program_.functions)
      for (Instruction& i : function.code) i.statistic = statistic(i.opcode);
    return std::move(program_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Fault("PTX: " + what + " near \"" + (at_ < tokens_.size() ? tokens_[at_].text : "the end") + "\"" +
                (function_ ? " in " + function_->name : ""));
  }
  [[nodiscard]] const Token& peek(std::size_t ahead = 0) const {
    if (at_ + ahead >= tokens_.size()) fail("the text ends early");
    return tokens_[at_ + ahead];
  }
  std::string next() {
    std::string text = peek().text;
    ++at_;
    return text;
  }
  bool accept(std::string_view what) {
    if (!peek().is(what)) return false;
    ++at_;
    return true;
  }
  void expect(std::string_view what) {
    if (!accept(what)) fail("expected \"" + std::string(what) + "\"");
  }
  void skip_past(std::string_view what) {
    while (next() != what) {
    }
  }
  void skip_braces() {
    expect("{");
    for (int depth = 1; depth > 0;) {
      const std::string t = next();
      depth += t == "{" ? 1 : t == "}" ? -1 : 0;
    }
  }

  void directive() {
    const std::string word = next();
    if (word == ".version" || word == ".address_size") {
      next();
    } else if (word == ".target") {
      next();
      while (accept(",")) next();
    } else if (word == ".visible" || word == ".weak" || word == ".extern") {
      external_ = word == ".extern";
    } else if (word == ".entry") {
      kernel();
    } else if (word == ".func") {
      while (!peek().is("{") && !peek().is(";")) next();
      if (peek().is("{")) skip_braces();
      else next();
    } else if (word == ".shared") {
      const Variable v = variable();
      if (external_) v_dynamic_ = v;
      else module_shared_[v.name] = v;
      external_ = false;
      expect(";");
    } else if (word == ".global" || word == ".const") {
      global();
    } else {
      fail("unknown directive " + word);
    }
  }

  /// What follows .shared, .local, .param: up to the ";", "," or ")" after it.
  Variable variable() {
    Variable v;
    while (peek().text[0] == '.') {
      const std::string word = next();
      if (word == ".align") v.align = number(next());
      else if (const Type t = type_of(word.substr(1)); t.bits > 0) v.element = t.bytes();
      else if (word == ".ptr" || word == ".global" || word == ".shared") continue;
    }
    v.align = std::max(v.align, v.element);
    v.name = next();
    while (accept("[")) {
      v.count = peek().is("]") ? 0 : v.count * number(next());
      expect("]");
    }
    return v;
  }

  void global() {
    const Variable v = variable();
    std::vector<std::byte> data(std::max<std::size_t>(v.bytes(), 1));
    if (accept("=")) {
      std::vector<std::uint64_t> values;
      const bool list = accept("{");
      do values.push_back(operand_value());
      while (list && accept(","));
      if (list) expect("}");
      for (std::size_t i = 0; i < values.size() && i < v.count; ++i)
        std::copy_n(reinterpret_cast<const std::byte*>(&values[i]), v.element, data.data() + i * v.element);
    }
    expect(";");
    program_.global_memory.emplace(v.name, std::move(data));
  }
  std::uint64_t operand_value() {
    const bool negative = accept("-");
    const std::uint64_t n = number(next());
    return negative ? 0 - n : n;
  }

  void kernel() {
    const std::string name = next();
    function_ = &program_.functions[name];
    function_->name = name;
    scopes_.assign(1, {});
    labels_.clear();
    shared_.clear();
    local_.clear();
    if (accept("(")) {
      while (!accept(")")) parameter();
    }
    while (!peek().is("{")) next();  // .maxntid, .minnctapersm …
    expect("{");
    while (!scopes_.empty()) statement();
    for (Instruction& i : function_->code) {
      if (i.kind != Instruction::branch) continue;
      const auto label = labels_.find(i.label);
      if (label == labels_.end()) fail("no label " + i.label);
      i.target = label->second;
    }
    if (function_->dynamic_shared_offset == 0) function_->dynamic_shared_offset = function_->shared_bytes;
    if (has_dynamic_)
      function_->dynamic_shared_offset = round_up(function_->shared_bytes, std::max<std::size_t>(v_dynamic_.align, 16));
    patch_dynamic();
    function_ = nullptr;
  }
  void parameter() {
    expect(".param");
    const Variable v = variable();
    const std::size_t offset = round_up(function_->parameter_bytes, v.align);
    function_->parameters[v.name] = {offset, v.bytes()};
    function_->parameter_bytes = offset + v.bytes();
    accept(",");
  }

  void statement() {
    if (accept("{")) return void(scopes_.emplace_back());
    if (accept("}")) return scopes_.pop_back();
    if (accept(";")) return;
    const std::string& word = peek().text;
    if (word[0] == '.') return body_directive();
    if (peek(1).is(":")) {
      labels_[word] = static_cast<int>(function_->code.size());
      at_ += 2;
      return;
    }
    instruction();
  }
  void body_directive() {
    const std::string word = next();
    if (word == ".reg") {
      registers();
    } else if (word == ".shared") {
      const Variable v = variable();
      place_shared(v);
    } else if (word == ".local") {
      const Variable v = variable();
      const std::size_t offset = round_up(function_->local_bytes, v.align);
      local_[v.name] = offset;
      function_->local_bytes = offset + v.bytes();
    }
    skip_past(";");
  }
  std::uint64_t place_shared(const Variable& v) {
    const std::size_t offset = round_up(function_->shared_bytes, v.align);
    shared_[v.name] = offset;
    function_->shared_bytes = offset + v.bytes();
    return offset;
  }
  void registers() {
    next();  // the type
    do {
      std::string name = next();
      if (accept("<")) {
        const std::uint64_t n = number(next());
        expect(">");
        for (std::uint64_t i = 0; i < n; ++i) scopes_.back()[name + std::to_string(i)] = function_->registers++;
      } else {
        scopes_.back()[name] = function_->registers++;
      }
    } while (accept(","));
  }

  void instruction() {
    Instruction i;
    const std::size_t begin = at_;
    if (accept("@")) {
      i.guard_negated = accept("!");
      i.guard = find_register(next());
      if (i.guard < 0) fail("no such predicate");
    }
    i.opcode = next();
    i.words = split(i.opcode);
    for (const std::string& word : i.words)
      if (const Type t = type_of(word); t.bits > 0) {
        i.from = i.type;
        i.type = t;
      }
    if (i.words[0] == "bra") {
      i.label = next();
    } else if (i.words[0] == "call") {
      while (!peek().is(";")) next();
    } else {
      while (!peek().is(";")) {
        i.operands.push_back(operand());
        if (!peek().is(";")) expect(",");
      }
    }
    for (std::size_t t = begin; t < at_; ++t)
      i.text += (t > begin && tokens_[t].is_word() ? " " : "") + tokens_[t].text;
    expect(";");
    i.number = static_cast<int>(function_->code.size());
    bind(i);
    function_->code.push_back(std::move(i));
  }

  Operand operand() {
    Operand o;
    if (accept("{")) {
      o.kind = Operand::vector;
      do o.parts.push_back(operand());
      while (accept(","));
      expect("}");
    } else if (accept("[")) {
      o = simple();
      if (accept("+")) o.value += operand_value();
      if (o.kind != Operand::reg && o.kind != Operand::immediate) fail("no address");
      o.kind = Operand::address;
      expect("]");
    } else {
      o = simple();
      if (accept("|")) {
        Operand both;
        both.kind = Operand::vector;
        both.parts = {o, simple()};
        return both;
      }
      if (accept("+")) o.value += operand_value();
    }
    return o;
  }
  Operand simple() {
    Operand o;
    o.negated = accept("!");
    if (peek().is("-")) {
      o.value = operand_value();
      return o;
    }
    const std::string word = next();
    if (std::isdigit(static_cast<unsigned char>(word[0])) != 0) {
      o.value = number(word);
      return o;
    }
    if (word == "_") {  // a sink
      o.kind = Operand::reg;
      o.index = function_->registers++;
      return o;
    }
    if (o.index = find_register(word); o.index >= 0) {
      o.kind = Operand::reg;
      return o;
    }
    if (word[0] == '%') return special(word);
    return symbol(word);
  }
  Operand special(const std::string& word) const {
    static const std::map<std::string, Special> names{{"%tid", Special::tid},       {"%ctaid", Special::ctaid},
                                                      {"%ntid", Special::ntid},     {"%nctaid", Special::nctaid},
                                                      {"%laneid", Special::laneid}, {"%warpid", Special::warpid}};
    const std::size_t dot = std::min(word.find('.'), word.size());
    const auto found = names.find(word.substr(0, dot));
    if (found == names.end()) fail("unknown register " + word);
    Operand o;
    o.kind = Operand::special;
    o.index = 4 * static_cast<int>(found->second) + (dot < word.size() ? word[dot + 1] - 'x' : 0);
    return o;
  }
  Operand symbol(const std::string& word) {
    Operand o;
    if (const auto p = function_->parameters.find(word); p != function_->parameters.end())
      o.value = space_begin + p->second.offset;
    else if (const auto s = shared_.find(word); s != shared_.end()) o.value = space_begin + s->second;
    else if (const auto l = local_.find(word); l != local_.end()) o.value = space_begin + l->second;
    else if (const auto m = module_shared_.find(word); m != module_shared_.end())
      o.value = space_begin + place_shared(m->second);
    else if (word == v_dynamic_.name) {
      has_dynamic_ = true;
      o.index = dynamic_mark;
    } else if (const auto g = program_.global_memory.find(word); g != program_.global_memory.end())
      o.value = reinterpret_cast<std::uint64_t>(g->second.data());
    else fail("unknown name " + word);
    return o;
  }
  /// Dynamic shared memory begins after all static arrays, which are known at the function's end.
  void patch_dynamic() {
    for (Instruction& i : function_->code)
      for (Operand& o : i.operands)
        if (o.index == dynamic_mark) {
          o.index = -1;
          o.value += space_begin + function_->dynamic_shared_offset;
        }
    has_dynamic_ = false;
  }

  [[nodiscard]] int find_register(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (const auto found = scope->find(name); found != scope->end()) return found->second;
    return -1;
  }
  [[nodiscard]] std::uint64_t number(std::string word) const {
    int base = 10;
    std::size_t skip = 0;
    if (word.starts_with("0f") || word.starts_with("0F") || word.starts_with("0d") || word.starts_with("0D") ||
        word.starts_with("0x") || word.starts_with("0X"))
      base = 16, skip = 2;
    if (word.back() == 'U') word.pop_back();
    if (word.find('.') != std::string::npos) {  // "1.0": a fraction of createpolicy
      return 0;
    }
    std::uint64_t n = 0;
    const auto [end, error] = std::from_chars(word.data() + skip, word.data() + word.size(), n, base);
    if (error != std::errc{} || end != word.data() + word.size()) fail("no number: " + word);
    return n;
  }
  int statistic(const std::string& opcode) {
    const auto [at, fresh] = statistics_.emplace(opcode, static_cast<int>(statistics_.size()));
    if (fresh) program_.opcodes.push_back(opcode);
    return at->second;
  }

  static constexpr int dynamic_mark = -2;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  Program program_;
  Function* function_ = nullptr;
  bool external_ = false, has_dynamic_ = false;
  Variable v_dynamic_;
  std::map<std::string, Variable> module_shared_;
  std::map<std::string, std::uint64_t> shared_, local_;
  std::vector<std::map<std::string, int>> scopes_;
  std::map<std::string, int> labels_;
  std::map<std::string, int> statistics_;
};

}  // namespace

Type type_of(const std::string& word) {
  static const std::map<std::string, Type> types{
      {"pred", {'p', 1}},      {"b8", {'b', 8}},    {"b16", {'b', 16}},       {"b32", {'b', 32}}, {"b64", {'b', 64}},
      {"b128", {'b', 128}},    {"u8", {'u', 8}},    {"u16", {'u', 16}},       {"u32", {'u', 32}}, {"u64", {'u', 64}},
      {"s8", {'s', 8}},        {"s16", {'s', 16}},  {"s32", {'s', 32}},       {"s64", {'s', 64}}, {"f16", {'f', 16}},
      {"f16x2", {'f', 16, 2}}, {"bf16", {'g', 16}}, {"bf16x2", {'g', 16, 2}}, {"f32", {'f', 32}}, {"f64", {'f', 64}}};
  const auto found = types.find(word);
  return found == types.end() ? Type{} : found->second;
}

bool Instruction::has(const char* word) const { return std::find(words.begin(), words.end(), word) != words.end(); }

Program parse(std::string_view text) { return Parser(text).parse(); }

}  // namespace nibble::cuda_ptx
