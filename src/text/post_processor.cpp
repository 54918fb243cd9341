#include "post_processor.h"

#include <array>

#include "components.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

/// Changes offsets, which are not kept here.
TokensAround read_byte_level(const Json& /*d*/) { return {}; }

TokensAround read_template(const Json& d) {
  TokensAround out;
  bool seen_text = false;
  for (const Json& item : array(d, "single")) {
    if (item.is_object() && item.contains("Sequence")) {
      seen_text = true;
      continue;
    }
    const std::string name = text(member(item, "SpecialToken"), "id");
    const Json& ids = array(member(member(d, "special_tokens"), name.c_str()), "ids");
    for (const Json& id : ids) (seen_text ? out.after : out.before).push_back(token_id(id, name));
  }
  return out;
}

constexpr std::array<Component<TokensAround>, 2> kPostProcessors{{
    {"ByteLevel", read_byte_level},
    {"TemplateProcessing", read_template},
}};

}  // namespace

TokensAround read_post_processor(const Json& description) {
  std::vector<TokensAround> steps;
  read_components<TokensAround>(description, "post-processor", "processors", kPostProcessors, steps);
  TokensAround out;
  for (const TokensAround& step : steps) {  // each goes around what the one before made
    out.before.insert(out.before.begin(), step.before.begin(), step.before.end());
    out.after.insert(out.after.end(), step.after.begin(), step.after.end());
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::text
