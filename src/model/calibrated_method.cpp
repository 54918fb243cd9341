#include <charconv>
#include <utility>

#include "nibble/core/error.h"
#include "nibble/model/calibrate.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

using Kind = CalibratedMethod::Kind;

/// Options that are a word and a flag, per kind.
struct Flag {
  std::string_view word;
  Kind kind;
  bool CalibratedMethod::*member;
  bool value;
};
constexpr Flag kFlags[] = {{"act", Kind::gptq, &CalibratedMethod::act_order, true},
                           {"static", Kind::gptq, &CalibratedMethod::static_groups, true},
                           {"gar", Kind::gptq, &CalibratedMethod::act_group_aware, true},
                           {"mse", Kind::gptq, &CalibratedMethod::grid_search, true},
                           {"refit", Kind::gptq, &CalibratedMethod::refit_scales, true},
                           {"gptaq", Kind::gptq, &CalibratedMethod::gptaq, true},
                           {"qronos", Kind::gptq, &CalibratedMethod::qronos, true},
                           {"noclip", Kind::awq, &CalibratedMethod::clip, false},
                           {"duo", Kind::awq, &CalibratedMethod::duo_scaling, true}};

std::string_view next_word(std::string_view& text) {
  const std::size_t end = text.find('-');
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return word;
}

std::optional<std::size_t> whole_number(std::string_view word) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return value;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : whole_(text), rest_(text) {}

  CalibratedMethod parse() {
    CalibratedMethod m;
    m.kind = next_word(rest_) == "awq" ? Kind::awq : Kind::gptq;
    const std::string_view first = next_word(rest_);
    if (m.kind == Kind::gptq && (m.blocks = parse_block_type(first))) {
      if (!can_encode(*m.blocks) || is_float(*m.blocks)) fail("GPTQ solves no blocks of this type");
      parse_corrections(m);
      return m;
    }
    const auto bits = whole_number(first);
    if (!bits || *bits < 2 || *bits > 8) fail("the bits, 2 to 8, come first");
    m.spec.bits = static_cast<int>(*bits);
    parse_groups(m.spec, next_word(rest_));
    while (!rest_.empty()) parse_option(m, next_word(rest_));
    check_end(m);
    m.spec.validate();
    return m;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(ErrorCode::invalid_argument,
                "'" + std::string(whole_) + "': " + why +
                    " (gptq-<bits>-g<size>|channel[-sym|-asym][-act][-static][-gar][-mse][-refit][-gptaq|-qronos], "
                    "gptq-<GGUF type>[-gptaq|-qronos], awq-<bits>-g<size>|channel[-sym|-asym][-noclip][-duo])");
  }

  void parse_groups(QuantSpec& spec, std::string_view word) const {
    if (word == "channel") {
      spec.granularity = Granularity::channel;
      spec.group_size = 0;
      return;
    }
    const auto size = word.starts_with('g') ? whole_number(word.substr(1)) : std::nullopt;
    if (!size || *size == 0) fail("after the bits comes g<size>, or channel for one scale a row");
    spec.group_size = *size;
  }

  /// All that a GGUF type leaves open.
  void parse_corrections(CalibratedMethod& m) {
    while (!rest_.empty()) {
      const std::string_view word = next_word(rest_);
      if (word != "gptaq" && word != "qronos") fail("a GGUF type has no options but -gptaq and -qronos");
      parse_option(m, word);
    }
    check_end(m);
  }

  void check_end(const CalibratedMethod& m) const {
    if (whole_.ends_with('-')) fail("it ends in '-'");
    if (m.act_order && m.act_group_aware) fail("-act and -gar are two orders; choose one");
    if (m.gptaq && m.qronos) fail("-gptaq and -qronos are two corrections; choose one");
  }

  void parse_option(CalibratedMethod& m, std::string_view word) const {
    if (word == "sym" || word == "asym") {
      m.spec.scheme = word == "sym" ? SchemeKind::symmetric : SchemeKind::asymmetric;
      return;
    }
    for (const Flag& f : kFlags)
      if (f.word == word && f.kind == m.kind) {
        m.*f.member = f.value;
        return;
      }
    fail("there is no option '" + std::string(word) + "'");
  }

  std::string_view whole_, rest_;
};

}  // namespace

bool CalibratedMethod::is_calibrated(std::string_view text) {
  const std::string_view first = next_word(text);
  return first == "gptq" || first == "awq";
}

CalibratedMethod CalibratedMethod::parse(std::string_view text) {
  if (is_calibrated(text)) return Parser(text).parse();
  CalibratedMethod m;
  m.kind = Kind::round;
  m.spec = QuantSpec::parse(text);
  if (!m.spec.is_affine())
    throw Error(ErrorCode::invalid_argument,
                "'" + std::string(text) + "': only integer methods go together with GPTQ and AWQ");
  return m;
}

std::string CalibratedMethod::to_string() const {
  if (kind == Kind::round) return spec.to_string();
  std::string out = kind == Kind::gptq ? "gptq-" : "awq-";
  if (blocks) {
    out += name_of(*blocks);
  } else {
    out += std::to_string(spec.bits);
    if (spec.granularity == Granularity::channel) out += "-channel";
    else out.append("-g").append(std::to_string(spec.group_size));
    if (spec.scheme == SchemeKind::symmetric) out += "-sym";
  }
  for (const Flag& f : kFlags)
    if (f.kind == kind && this->*f.member == f.value) out.append("-").append(f.word);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
