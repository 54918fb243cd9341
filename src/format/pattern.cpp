#include "pattern.h"

#include <algorithm>
#include <string>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

constexpr std::size_t kMaxSteps = 20000;
constexpr int kMaxDepth = 50;
constexpr int kMaxRepeats = 1000;

using Letters = std::bitset<256>;

Letters range(unsigned char first, unsigned char last) {
  Letters out;
  for (unsigned c = first; c <= last; ++c) out.set(c);
  return out;
}

}  // namespace

/// Recursive descent; each piece of the pattern appends its steps.
class PatternCompiler {
  using Kind = Pattern::Kind;

 public:
  PatternCompiler(std::string_view text, std::vector<Pattern::Step>& steps) : text_(text), steps_(steps) {
    alternatives(0);
    if (at_ < text_.size()) refuse("')' without '('");
    add({Kind::accept, {}, 0, 0});
  }
  [[nodiscard]] int levels() const { return most_level_ + 1; }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::unsupported, "the pattern '" + std::string(text_.substr(0, 200)) + "': " + why);
  }
  [[nodiscard]] bool more() const { return at_ < text_.size(); }
  [[nodiscard]] char peek() const { return text_[at_]; }
  char take() {
    if (!more()) refuse("it ends too early");
    return text_[at_++];
  }
  bool skip(char c) {
    if (!more() || peek() != c) return false;
    ++at_;
    return true;
  }
  void add(Pattern::Step step) {
    if (steps_.size() >= kMaxSteps) refuse("it is too long");
    step.level = level_;
    steps_.push_back(step);
  }
  /// Makes room for one step at `where`: what lies behind moves, and its jumps with it.
  void insert(std::size_t where, Pattern::Step step) {
    add({});
    for (std::size_t i = steps_.size() - 1; i > where; --i) steps_[i] = steps_[i - 1];
    for (std::size_t i = where + 1; i < steps_.size(); ++i) shift(steps_[i], 1);
    step.level = level_;
    steps_[where] = step;
  }
  static void shift(Pattern::Step& step, std::size_t by) {
    if (step.kind != Kind::fork && step.kind != Kind::jump && step.kind != Kind::look && step.kind != Kind::look_not)
      return;
    step.next += by;
    step.other += by;
  }

  void alternatives(int depth) {
    if (depth > kMaxDepth) refuse("its groups are nested too deeply");
    std::vector<std::size_t> jumps;
    for (;;) {
      const std::size_t start = steps_.size();
      sequence(depth);
      if (!skip('|')) break;
      insert(start, {Kind::fork, {}, start + 1, steps_.size() + 2});
      jumps.push_back(steps_.size());
      add({Kind::jump, {}, 0, 0});
    }
    for (const std::size_t jump : jumps) steps_[jump].next = steps_.size();
  }

  void sequence(int depth) {
    while (more() && peek() != '|' && peek() != ')') {
      const std::size_t start = steps_.size();
      piece(depth);
      repeats(start);
    }
  }

  void piece(int depth) {
    switch (const char c = take()) {
      case '(':
        if (skip('?')) return special_group(depth);
        group(depth);
        return;
      case '^': return add({Kind::start, {}, 0, 0});
      case '$': return add({Kind::end, {}, 0, 0});
      case '.': return letters(~Letters().set('\n'));
      case '[': return letters(character_class());
      case '\\': return letters(escape());
      case '*':
      case '+':
      case '?':
      case '{': refuse("there is nothing to repeat before '" + std::string(1, c) + "'");
      default: return letters(Letters().set(static_cast<unsigned char>(c)));
    }
  }

  void group(int depth) {
    alternatives(depth + 1);
    if (!skip(')')) refuse("'(' without ')'");
  }

  void special_group(int depth) {
    const char kind = take();
    if (kind == ':') return group(depth);
    if (kind == 'P' && skip('<')) {
      while (take() != '>') {
      }
      return group(depth);
    }
    if (kind != '=' && kind != '!') refuse("of the groups with '?' only (?: ), (?P<name> ), (?= ) and (?! ) are known");
    const std::size_t look = steps_.size();
    add({kind == '=' ? Kind::look : Kind::look_not, {}, look + 1, 0});
    most_level_ = std::max(most_level_, ++level_);
    group(depth);
    add({Kind::accept, {}, 0, 0});
    --level_;
    steps_[look].other = steps_.size();
  }

  void letters(const Letters& which) { add({Kind::letter, which, 0, 0}); }

  Letters escape() {
    const char c = take();
    const Letters digits = range('0', '9'), space = Letters(range('\t', '\r')).set(' ');
    const Letters word = (digits | range('a', 'z') | range('A', 'Z')).set('_');
    switch (c) {
      case 'd': return digits;
      case 'D': return ~digits;
      case 'w': return word;
      case 'W': return ~word;
      case 's': return space;
      case 'S': return ~space;
      default: break;
    }
    if (word.test(static_cast<unsigned char>(c))) refuse("the escape \\" + std::string(1, c) + " is not known");
    return Letters().set(static_cast<unsigned char>(c));
  }

  Letters character_class() {
    const bool negated = skip('^');
    Letters out;
    for (bool first = true; first || !more() || peek() != ']'; first = false) {
      const char c = take();
      if (c == '\\') {
        out |= escape();
      } else if (more() && peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        const char last = take();
        if (last == '\\' || static_cast<unsigned char>(last) < static_cast<unsigned char>(c))
          refuse("a range in [ ] is not in order");
        out |= range(static_cast<unsigned char>(c), static_cast<unsigned char>(last));
      } else {
        out.set(static_cast<unsigned char>(c));
      }
    }
    ++at_;
    return negated ? ~out : out;
  }

  int number() {
    int value = 0;
    const std::size_t start = at_;
    while (more() && peek() >= '0' && peek() <= '9') {
      value = value * 10 + (take() - '0');
      if (value > kMaxRepeats) refuse("more than 1000 repetitions");
    }
    if (at_ == start) refuse("'{' needs a number");
    return value;
  }

  /// Repeats the piece that began at step `start` as what follows it in the pattern says.
  void repeats(std::size_t start) {
    while (more()) {
      int least = 0, most = -1;  // −1: any number
      if (skip('*')) {
      } else if (skip('+')) {
        least = 1;
      } else if (skip('?')) {
        most = 1;
      } else if (skip('{')) {
        least = most = number();
        if (skip(',')) most = more() && peek() == '}' ? -1 : number();
        if (!skip('}') || (most >= 0 && most < least)) refuse("'{' needs {m}, {m,} or {m,n}");
      } else {
        return;
      }
      repeat(start, least, most);
      (void)skip('?');
    }
  }

  void repeat(std::size_t start, int least, int most) {
    const std::vector<Pattern::Step> piece(steps_.begin() + static_cast<std::ptrdiff_t>(start), steps_.end());
    const auto again = [&] {
      const std::size_t by = steps_.size() - start;
      for (Pattern::Step step : piece) {
        shift(step, by);
        const int level = step.level;
        add(step);
        steps_.back().level = level;
      }
    };
    steps_.resize(start);
    for (int i = 0; i < least; ++i) again();
    if (most < 0) {
      const std::size_t fork = steps_.size();
      add({Kind::fork, {}, fork + 1, fork + piece.size() + 2});
      again();
      add({Kind::jump, {}, fork, 0});
    }
    const std::size_t optional = most < 0 ? 0 : static_cast<std::size_t>(most - least);
    const std::size_t end = steps_.size() + optional * (piece.size() + 1);
    for (std::size_t i = 0; i < optional; ++i) {
      add({Kind::fork, {}, steps_.size() + 1, end});
      again();
    }
  }

  std::string_view text_;
  std::vector<Pattern::Step>& steps_;
  std::size_t at_ = 0;
  int level_ = 0, most_level_ = 0;
};

Pattern::Pattern(std::string_view text) { levels_ = PatternCompiler(text, steps_).levels(); }

bool Pattern::accepts(std::size_t step, std::string_view text, std::size_t at, const std::vector<char>& here,
                      const std::vector<char>& beyond) const {
  const Step& s = steps_[step];
  switch (s.kind) {
    case Kind::accept: return true;
    case Kind::fork: return here[s.next] != 0 || here[s.other] != 0;
    case Kind::jump: return here[s.next] != 0;
    case Kind::start: return at == 0 && here[step + 1] != 0;
    case Kind::end:  // before a newline that is the last letter, too
      return (at == text.size() || (at + 1 == text.size() && text[at] == '\n')) && here[step + 1] != 0;
    case Kind::look: return here[s.next] != 0 && here[s.other] != 0;
    case Kind::look_not: return here[s.next] == 0 && here[s.other] != 0;
    case Kind::letter:
      return at < text.size() && s.letters.test(static_cast<unsigned char>(text[at])) && beyond[step + 1] != 0;
  }
  return false;
}

bool Pattern::matches_start(std::string_view text) const {
  std::vector<char> here(steps_.size()), beyond(steps_.size());
  for (std::size_t at = text.size() + 1; at-- > 0;) {
    here.swap(beyond);
    std::fill(here.begin(), here.end(), 0);
    // What lies in a look-ahead comes before the look-ahead itself. Most steps lead to later ones, so that one sweep
    // from the last is enough for them; each loop around a step may take another, and groups nest no deeper than
    // kMaxDepth.
    for (int level = levels_ - 1; level >= 0; --level)
      for (bool changed = true; changed;) {
        changed = false;
        for (std::size_t s = steps_.size(); s-- > 0;)
          if (steps_[s].level == level && here[s] == 0 && accepts(s, text, at, here, beyond))
            here[s] = 1, changed = true;
      }
  }
  return here[0] != 0;
}

}  // namespace nibble::inline NIBBLE_ABI::format
