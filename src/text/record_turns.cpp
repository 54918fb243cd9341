#include "record_turns.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/json.h"
#include "nibble/core/error.h"
#include "prompt_templates.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

using Json = nlohmann::json;
using Keys = std::initializer_list<const char*>;

[[noreturn]] void refuse(const std::string& where, const std::string& why) {
  throw Error(ErrorCode::corrupt_file, "'" + where + "': " + why);
}

std::string cut(const std::string& text) {
  constexpr std::size_t most = 80;
  return text.size() <= most ? text : text.substr(0, most) + "…";
}
/// A value in a message, in ASCII, so that cutting it cuts no character.
std::string shown(const Json& value) { return cut(value.dump(-1, ' ', true, Json::error_handler_t::replace)); }
std::string shown(const std::string& text) { return shown(Json(text)); }

std::string keys_of(const Json& object) {
  constexpr std::size_t most = 10;
  std::string out;
  std::size_t count = 0;
  for (const auto& [key, value] : object.items()) {
    if (count++ == most) return out + ", …";
    out += (out.empty() ? "" : ", ") + shown(key);
  }
  return out.empty() ? "none" : out;
}

/// The member by the first of these keys that the object has, or null.
std::pair<const char*, const Json*> find_first(const Json& object, Keys keys) {
  for (const char* key : keys)
    if (const auto member = object.find(key); member != object.end()) return {key, &*member};
  return {*keys.begin(), nullptr};
}

/// The string by the first of these keys that the object has.
const std::string& string_of(const Json& object, Keys keys, const std::string& where) {
  const auto [key, value] = find_first(object, keys);
  if (value == nullptr)
    refuse(where, "\"" + std::string(key) + "\" is missing; the keys that are there are " + keys_of(object));
  if (!value->is_string())
    refuse(where, "\"" + std::string(key) + "\" must be a string; it is " + value->type_name() + ": " + shown(*value));
  return value->get_ref<const std::string&>();
}

/// The same of what is to be learned, where nothing would teach the model to say nothing.
const std::string& answer_of(const Json& object, Keys keys, const std::string& where) {
  const std::string& answer = string_of(object, keys, where);
  if (answer.empty())
    refuse(where, "\"" + std::string(find_first(object, keys).first) + "\" is empty: there is nothing to learn");
  return answer;
}

RecordTurns read_instruction(const Json& record, const char* key, const PromptTemplate& form,
                             const std::string& where) {
  const std::string& instruction = string_of(record, {key}, where);
  const Json* input = find_first(record, {"input", "context"}).second;
  const bool has_input = input != nullptr && !input->is_null();
  std::string prompt =
      instruction_prompt(form, instruction, has_input ? string_of(record, {"input", "context"}, where) : std::string());
  std::string answer = answer_of(record, {"output", "response"}, where) + std::string(form.after_answer);
  return one_turn(std::move(prompt), std::move(answer), true);
}

enum class Role { system, user, assistant };
constexpr std::array<std::pair<std::string_view, Role>, 5> kRoles{{{"system", Role::system},
                                                                   {"user", Role::user},
                                                                   {"assistant", Role::assistant},
                                                                   {"human", Role::user},
                                                                   {"gpt", Role::assistant}}};

Role role_of(const Json& message, const std::string& where) {
  if (!message.is_object())
    refuse(where, std::string("a message is an object; here is ") + message.type_name() + ": " + shown(message));
  const std::string& name = string_of(message, {"role", "from"}, where);
  const auto* role = std::ranges::find(kRoles, name, [](const auto& known) { return known.first; });
  if (role == kRoles.end())
    refuse(where,
           "the role is " + shown(name) + "; those that are read are system, user (or human) and assistant (or gpt)");
  return role->second;
}

RecordTurns read_chat(const Json& record, const char* key, const PromptTemplate& form, const std::string& where) {
  const Json& messages = record[key];
  if (!messages.is_array())
    refuse(where, "\"" + std::string(key) + "\" must be an array of messages; it is " + messages.type_name() + ": " +
                      shown(messages));
  RecordTurns out{.turns = {}, .by_template = true};
  std::string prompt;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string here = where + ", \"" + key + "\"[" + std::to_string(i) + "]";
    const Role role = role_of(messages[i], here);
    if (role != Role::assistant) {
      const std::string& content = string_of(messages[i], {"content", "value"}, here);
      prompt += filled(role == Role::system ? form.system : form.user, {{"content", content}});
      continue;
    }
    prompt += form.before_answer;
    out.turns.push_back({std::exchange(prompt, std::string(form.between)),
                         answer_of(messages[i], {"content", "value"}, here) + std::string(form.after_answer)});
  }
  if (out.turns.empty())
    refuse(where, "\"" + std::string(key) + "\" holds no message of the assistant's: there is nothing to learn");
  if (prompt != form.between) out.turns.push_back({std::move(prompt), {}});
  return out;
}

RecordTurns read_prompt(const Json& record, const char* key, const PromptTemplate& /*form*/, const std::string& where) {
  return one_turn(string_of(record, {key}, where), answer_of(record, {"completion"}, where));
}

RecordTurns read_plain(const Json& record, const char* key, const PromptTemplate& /*form*/, const std::string& where) {
  return one_turn({}, answer_of(record, {key}, where));
}

/// A kind of record, by the key that no other has. The first that fits counts: data sets keep what a record was made of
/// beside it.
struct Kind {
  const char* key;
  RecordTurns (*read)(const Json& record, const char* key, const PromptTemplate& form, const std::string& where);
};
constexpr std::array<Kind, 5> kKinds{{{"messages", read_chat},
                                      {"conversations", read_chat},
                                      {"instruction", read_instruction},
                                      {"prompt", read_prompt},
                                      {"text", read_plain}}};

json::Document parse_line(std::string_view line, const std::string& where) {
  // What a value takes is many times its text, and a record has a few dozen.
  const json::Limits limits{.bytes = line.size(), .values = std::size_t{1} << 18};
  try {
    return json::parse(line, where, limits);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::corrupt_file) throw;
    throw Error(e.code(), std::string(e.what()) + " (each line must be one whole record)");
  }
}

}  // namespace

RecordTurns one_turn(std::string prompt, std::string answer, bool by_template) {
  RecordTurns out{.turns = {}, .by_template = by_template};
  out.turns.push_back({std::move(prompt), std::move(answer)});
  return out;
}

void require_utf8_at(std::string_view text, const std::string& where) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = first_character(text.substr(at)).length;
    if (length == 0)
      refuse(where, "byte " + std::to_string(at + 1) + " is '" + std::string(text.substr(at, 1)) +
                        "', which is no UTF-8 there; the file must be UTF-8 throughout");
    at += length;
  }
}

RecordTurns turns_of_line(std::string_view line, const PromptTemplate& form, const std::string& where) {
  require_utf8_at(line, where);
  const json::Document record = parse_line(line, where);
  if (!record->is_object())
    refuse(where, std::string("a record is an object; here is ") + record->type_name() + ": " + shown(*record) +
                      " (of a file that is one array, jq -c '.[]' makes lines of records)");
  for (const Kind& kind : kKinds)
    if (record->contains(kind.key)) return kind.read(*record, kind.key, form, where);
  refuse(where, "no kind of record has the keys " + keys_of(*record) +
                    "; those that are read have \"messages\" or \"conversations\", or \"instruction\" and \"output\", "
                    "or \"prompt\" and \"completion\", or \"text\"");
}

}  // namespace nibble::inline NIBBLE_ABI::text
