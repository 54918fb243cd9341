#include "prompt_templates.h"

#include <array>

#include "nibble/core/error.h"
#include "nibble/text/records.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

constexpr std::array<PromptTemplate, 4> kTemplates{{
    {.name = "alpaca",
     .with_input = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
     .without_input = "### Instruction:\n{instruction}\n\n### Response:\n",
     .system = "{content}\n\n",
     .user = "### Instruction:\n{content}\n\n",
     .before_answer = "### Response:\n",
     .after_answer = "",
     .between = "\n\n"},
    {.name = "alpaca-preamble",
     .with_input = "Below is an instruction that describes a task, paired with an input that provides further context. "
                   "Write a response that appropriately completes the request.\n\n"
                   "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
     .without_input = "Below is an instruction that describes a task. "
                      "Write a response that appropriately completes the request.\n\n"
                      "### Instruction:\n{instruction}\n\n### Response:",
     .system = "{content}\n\n",
     .user = "### Instruction:\n{content}\n\n",
     .before_answer = "### Response:",
     .after_answer = "",
     .between = "\n\n"},
    {.name = "chatml",
     .with_input = "<|im_start|>user\n{instruction}\n\n{input}<|im_end|>\n<|im_start|>assistant\n",
     .without_input = "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
     .system = "<|im_start|>system\n{content}<|im_end|>\n",
     .user = "<|im_start|>user\n{content}<|im_end|>\n",
     .before_answer = "<|im_start|>assistant\n",
     .after_answer = "<|im_end|>",
     .between = "\n"},
    {.name = "plain",
     .with_input = "{instruction}\n{input}\n",
     .without_input = "{instruction}\n",
     .system = "{content}\n",
     .user = "{content}\n",
     .before_answer = "",
     .after_answer = "",
     .between = "\n"},
}};

}  // namespace

std::string filled(std::string_view form, std::initializer_list<Filling> fillings) {
  std::string out;
  while (!form.empty()) {
    std::size_t length = 0;
    for (const auto& [place, text] : fillings)
      if (form.front() == '{' && form.substr(1).starts_with(place) && form.substr(1 + place.size()).starts_with('}')) {
        out += text;
        length = place.size() + 2;
      }
    if (length == 0) {
      out += form.front();
      length = 1;
    }
    form.remove_prefix(length);
  }
  return out;
}

std::span<const PromptTemplate> prompt_templates() { return kTemplates; }

const PromptTemplate& find_prompt_template(std::string_view name) {
  std::string names;
  for (const PromptTemplate& known : kTemplates) {
    if (known.name == name) return known;
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  }
  throw Error(ErrorCode::invalid_argument, "there is no template '" + std::string(name) + "'; there are " + names);
}

std::string instruction_prompt(const PromptTemplate& form, std::string_view instruction, std::string_view input) {
  return filled(input.empty() ? form.without_input : form.with_input, {{"instruction", instruction}, {"input", input}});
}

}  // namespace nibble::inline NIBBLE_ABI::text
