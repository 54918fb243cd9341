#include "nibble/text/records.h"

#include <algorithm>
#include <utility>

#include "delimited_reader.h"
#include "nibble/core/error.h"
#include "record_turns.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

using Ids = std::vector<std::int32_t>;

bool begins_with(const Ids& ids, const Ids& first) {
  return ids.size() >= first.size() && std::equal(first.begin(), first.end(), ids.begin());
}

void append(train::Sample& sample, const Ids& ids, bool trained) {
  sample.ids.insert(sample.ids.end(), ids.begin(), ids.end());
  sample.trained.resize(sample.ids.size(), trained ? 1 : 0);
}

/// The ids that the tokenizer puts before a text. Those behind it are left out: a sample's end is the caller's `eos`.
Ids tokens_before(const Tokenizer& tokenizer) {
  const Ids bare = tokenizer.encode("a", false), whole = tokenizer.encode("a", true);
  const auto text = std::search(whole.begin(), whole.end(), bare.begin(), bare.end());
  return text == whole.end() ? Ids() : Ids(whole.begin(), text);
}

void require_token(const Tokenizer& tokenizer, const char* option, std::int32_t id) {
  if (id == -1) return;
  try {
    (void)tokenizer.decode(Ids{id});
  } catch (const Error& e) {
    throw Error(e.code(), std::string(option) + " is " + std::to_string(id) + ": " + e.what() + " (-1 is for none)");
  }
}

/// Texts to samples, by one tokenizer and one set of options.
class Sampler {
 public:
  Sampler(const Tokenizer& tokenizer, const RecordOptions& options, const PromptTemplate& form)
      : tokenizer_(tokenizer), options_(options), form_(form), before_(tokens_before(tokenizer)) {
    require_token(tokenizer, "eos", options.eos);
    require_token(tokenizer, "bos", options.bos);
    if (before_.empty() && options.bos != -1) before_ = {options.bos};
  }

  train::Sample sample_of(const RecordTurns& record, const Progress& progress) {
    train::Sample text;
    bool apart = false;
    for (std::size_t i = 0; i < record.turns.size(); ++i) {
      const Turn& turn = record.turns[i];
      if (turn.answer.empty() && options_.completion_only) break;  // nothing is predicted from it
      apart = append_turn(turn, progress, text) || apart;
      const bool last = i + 1 == record.turns.size() || record.turns[i + 1].answer.empty();
      const bool ended = record.by_template && !form_.after_answer.empty() && !last;
      if (options_.eos != -1 && !turn.answer.empty() && !ended) append_eos(text);
    }
    apart_ += apart ? 1 : 0;
    by_template_ = by_template_ || record.by_template;
    train::Sample sample;
    if (!begins_with(text.ids, before_)) append(sample, before_, !options_.completion_only);
    sample.ids.insert(sample.ids.end(), text.ids.begin(), text.ids.end());
    sample.trained.insert(sample.trained.end(), text.trained.begin(), text.trained.end());
    idle_ += sample.targets() == 0 ? 1 : 0;
    return sample;
  }

  void append_notes(std::vector<std::string>& notes) const {
    if (apart_ > 0)
      notes.push_back(
          "prompt and answer were tokenized apart, for the tokenizer joins the one's end with the other's "
          "beginning: records of this kind are " +
          std::to_string(apart_));
    if (idle_ > 0) notes.push_back("records without a token to predict another from: " + std::to_string(idle_));
    if (!by_template_ || form_.after_answer.empty()) return;
    if (const std::size_t tokens = tokenizer_.encode(form_.after_answer, false).size(); tokens > 1)
      notes.push_back("the template '" + std::string(form_.name) + "' ends an answer with " +
                      std::string(form_.after_answer) + ", which is no token of this vocabulary, but " +
                      std::to_string(tokens) + "; another template suits the model better");
  }

 private:
  /// Whether prompt and answer had to be tokenized apart.
  bool append_turn(const Turn& turn, const Progress& progress, train::Sample& to) const {
    const Ids prompt = turn.prompt.empty() ? Ids() : tokenizer_.encode(turn.prompt, false, progress);
    append(to, prompt, !options_.completion_only);
    if (turn.answer.empty()) return false;
    Ids whole = tokenizer_.encode(turn.prompt + turn.answer, false, progress);
    const bool apart = !begins_with(whole, prompt);
    if (apart) whole = tokenizer_.encode(turn.answer, false, progress);
    else whole.erase(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(prompt.size()));
    append(to, whole, true);
    return apart;
  }
  void append_eos(train::Sample& to) const {
    if (to.ids.empty() || to.ids.back() != options_.eos) append(to, {options_.eos}, true);
  }

  const Tokenizer& tokenizer_;
  const RecordOptions& options_;
  const PromptTemplate& form_;
  Ids before_;
  std::size_t apart_ = 0;     ///< Records whose prompt's tokens are not the beginning of the whole's.
  std::size_t idle_ = 0;      ///< Records without a target.
  bool by_template_ = false;  ///< Whether any record was written by the template.
};

bool is_json_lines(const std::filesystem::path& file) {
  std::string extension = file.extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension == ".jsonl" || extension == ".json";
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == text.npos; }

/// A document of plain text, without the line ends around it.
RecordTurns turns_of_text(std::string_view text, const std::string& where) {
  require_utf8_at(text, where);
  const std::size_t first = text.find_first_not_of("\r\n"), last = text.find_last_not_of("\r\n");
  return one_turn({}, std::string(text.substr(first, last + 1 - first)));
}

/// The reason why a record was left out, among the first ten, which show what is wrong without filling the screen.
void note_skipped(const std::string& reason, Records& data) {
  constexpr std::size_t most = 10;
  if (++data.skipped <= most) data.notes.push_back("left out: " + reason);
}

}  // namespace

Records read_records(const std::filesystem::path& file, const Tokenizer& tokenizer, const RecordOptions& options) {
  const PromptTemplate& form = find_prompt_template(options.template_name);
  const bool json = is_json_lines(file);
  DelimitedReader reader(file, json ? '\n' : '\f', options.max_line_bytes);
  Sampler sampler(tokenizer, options, form);
  Progress progress;  // a tokenizer asks as well, and knows no fraction
  if (options.progress)
    progress = [&](double, std::string_view) { return options.progress(reader.fraction(), "reading records"); };
  Records data;
  bool looks_like_json = false;
  for (std::string piece; reader.next(piece);) {
    if (!reader.too_long() && is_blank(piece)) continue;
    if (data.records == 0) looks_like_json = !json && piece.starts_with('{');
    if (data.records++ % 64 == 0) report(progress, reader.fraction(), "reading records");
    const std::string where = file.string() + (json ? ", line " : ", document ") + std::to_string(reader.number());
    try {
      if (reader.too_long())
        throw Error(ErrorCode::corrupt_file, "'" + where + "' has more than " + std::to_string(options.max_line_bytes) +
                                                 " bytes, the most that are read (max_line_bytes)" +
                                                 (json ? "" : "; a form feed would end a document"));
      const RecordTurns turns = json ? turns_of_line(piece, form, where) : turns_of_text(piece, where);
      data.samples.push_back(sampler.sample_of(turns, progress));
    } catch (const Error& e) {
      if (!options.skip_bad || e.code() != ErrorCode::corrupt_file) throw;
      note_skipped(e.what(), data);
    }
  }
  if (data.samples.empty())
    throw Error(ErrorCode::invalid_argument,
                "'" + file.string() + "' holds no record to train on" +
                    (data.notes.empty() ? "" : "; " + std::to_string(data.skipped) + " were " + data.notes.front()));
  if (data.skipped > data.notes.size())
    data.notes.push_back(std::to_string(data.skipped - data.notes.size()) + " more were left out");
  sampler.append_notes(data.notes);
  if (looks_like_json)
    data.notes.push_back(
        "the file begins as JSON does, but was read as plain text: records are read from .jsonl and .json");
  report(progress, 1, "reading records");
  return data;
}

}  // namespace nibble::inline NIBBLE_ABI::text
