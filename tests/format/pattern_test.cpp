// Patterns match what Python's re.match does, and a hostile one costs no more than its length.
#include "src/format/pattern.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::format {
namespace {

using testing_support::expect_error;

TEST(Pattern, MatchesFromTheStart) {
  const std::string layer = "model.layers.10.mlp.down_proj";
  for (const char* yes : {"",
                          "model",
                          ".*down",
                          "model\\.layers\\.10\\.",
                          "^model.*proj$",
                          ".*\\.(up|down)_proj$",
                          "model.layers.[0-9]+.mlp",
                          "model\\.layers\\.(?:1|10|12)\\.mlp",
                          ".*\\.\\d{2}\\.",
                          "(a|m)odel",
                          ".*_proj$",
                          "\\w+\\.\\w+",
                          "[^.]+\\.[^.]+\\.1",
                          "model.layers.1?0",
                          "x*model",
                          "(x|)model",
                          ".*?down",
                          "(model|nothing)*\\.layers",
                          ".*\\.\\d{1,3}\\.",
                          "[m-]odel",
                          "((((m))))",
                          "[]m]odel"})
    EXPECT_TRUE(Pattern(yes).matches_start(layer)) << yes;
  for (const char* no :
       {"layers", "down", "^layers", "model$", "model\\.layers\\.1\\.", ".*\\.(up|gate)_proj$", ".*\\d{3}", "M",
        "model\\.layers\\.[2-9]", ".*proj.", "a|b", "[^m]", "mo{2}", "(model){2}", "$", ".*\\s"})
    EXPECT_FALSE(Pattern(no).matches_start(layer)) << no;
  EXPECT_TRUE(Pattern("^$").matches_start(""));
  EXPECT_FALSE(Pattern("a{2,3}b").matches_start("ab"));
  EXPECT_TRUE(Pattern("a{2,3}b").matches_start("aaab"));
  EXPECT_FALSE(Pattern("a{2,3}b").matches_start("aaaab"));
  EXPECT_TRUE(Pattern("a{0}b").matches_start("b"));
  EXPECT_TRUE(Pattern("(ab|a)(bc|c)$").matches_start("abc"));
}

// What Python's re.match says of each.
TEST(Pattern, LooksAhead) {
  const std::string layer = "model.layers.10.mlp.down_proj";
  for (const char* yes : {"^(?!.*lm_head).*",
                          "(?!.*lm_head)",
                          "^(?=.*mlp).*proj$",
                          "model\\.(?=layers)layers",
                          "(?!x)(?!y)m",
                          "(?!.*\\.self_attn\\.).*_proj",
                          "(?=.*down)(?=.*mlp)(?!.*up_proj)model",
                          "(?!(?!model))",
                          "(?=m(?=o(?!x)))mo",
                          "(?!a|b|c)m",
                          "(?:(?!down).)*down_proj$",
                          "(m(?!x)|x)*odel",
                          "(?=model$|model\\.).*",
                          "(?!)|m",
                          "(?=)m",
                          "(?P<part>model)\\.",
                          "((?!l)[a-z])*l",
                          ".*(?!\\d)\\.mlp",
                          "(?!model$).*",
                          "(?=a)*model"})
    EXPECT_TRUE(Pattern(yes).matches_start(layer)) << yes;
  for (const char* no :
       {"^(?!.*mlp).*", "(?=x)", "(?!model)", "model(?!\\.)", "(?!(?=model))", "(?=model)layers", "(?:(?!down).)*$",
        "(?!.*(up|down)_proj)", "((?!\\.)[a-z.])*layers", "(?!)", "model(?=$)", "(?=.*gate)|(?!m)", "(?=a)+model"})
    EXPECT_FALSE(Pattern(no).matches_start(layer)) << no;
  EXPECT_TRUE(Pattern("a$").matches_start("a\n"));
  EXPECT_FALSE(Pattern("a$").matches_start("a\nb"));
}

TEST(Pattern, RefusesWhatItDoesNotKnow) {
  for (const auto& [text, says] : {std::pair<const char*, const char*>{"(?<!x)", "only (?: )"},
                                   {"(?i)x", "only (?: )"},
                                   {"(?P<n", "ends too early"},
                                   {"(?=a", "'(' without ')'"},
                                   {"(a", "'(' without ')'"},
                                   {"a)", "')' without '('"},
                                   {"*a", "nothing to repeat"},
                                   {"[a", "ends too early"},
                                   {"a\\", "ends too early"},
                                   {"\\b", "escape \\b"},
                                   {"[z-a]", "not in order"},
                                   {"a{", "needs a number"},
                                   {"a{3,2}", "{m,n}"},
                                   {"a{2000}", "1000 repetitions"}})
    expect_error(ErrorCode::unsupported, says, [text = text] { Pattern{text}; });
  expect_error(ErrorCode::unsupported, "too long", [] { Pattern{"((a{1000}){1000}){1000}"}; });
  expect_error(ErrorCode::unsupported, "nested too deeply", [] { Pattern{std::string(100000, '(')}; });
  expect_error(ErrorCode::unsupported, "too long", [] { Pattern{std::string(100000, 'a')}; });
}

// (a*)*b and (a|a)* on a row of a's take exponential time in a matcher that tries one way after another.
TEST(Pattern, CannotBeMadeToRunForever) {
  const std::string text(5000, 'a');
  for (const char* hostile : {"(a*)*b", "(a|a)*b", "(a|aa)+$b", "(a?){200}a{200}b", "((a*)*)*b", "((?=(a*)*b)a)*b",
                              "(?:(?!(a|a)*b)a)*b", "(?=(?=(?=(?=a*b)a*b)a*b)a*b)"})
    EXPECT_FALSE(Pattern(hostile).matches_start(text)) << hostile;
  EXPECT_TRUE(Pattern("(.*)*$").matches_start(text));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::format
