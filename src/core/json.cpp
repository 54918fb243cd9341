#include "json.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::json {

namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& why) {
  throw Error(ErrorCode::corrupt_file, "'" + name + "' " + why);
}

/// Text of a file in a message: short, and in letters that no terminal acts on.
std::string shown(std::string_view text) {
  constexpr std::size_t most = 100;
  const nlohmann::json quoted(std::string(text.substr(0, most)));
  return quoted.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + (text.size() > most ? "…" : "");
}

/// Builds the document from the parser's events. A container is added to the one around it when it is complete: so an
/// object's members can be counted, and sorted to find keys that stand twice, and nothing is ever copied or searched.
template <class Json>
class Builder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(const std::string& name, const Limits& limits) : name_(name), limits_(limits) {}
  ~Builder() override {
    for (Frame& f : frames_)
      for (auto& [key, value] : f.members) dismantle(value);
    dismantle(root_);
  }
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  bool null() override { return add(Json(nullptr)); }
  bool boolean(bool v) override { return add(Json(v)); }
  bool number_integer(std::int64_t v) override { return add(Json(v)); }
  bool number_unsigned(std::uint64_t v) override { return add(Json(v)); }
  bool number_float(double v, const std::string&) override { return add(Json(v)); }
  bool string(std::string& v) override { return add(Json(std::move(v))); }
  bool binary(nlohmann::json::binary_t&) override { return false; }  // not of JSON
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool key(std::string& k) override {
    frames_.back().key = std::move(k);
    return true;
  }

  bool end_object() override {
    Owned<Json> object{Json(nlohmann::json::value_t::object)};
    auto& members = frames_.back().members;
    refuse_twice(members);
    auto& to = object->template get_ref<typename Json::object_t&>();
    if constexpr (requires { to.reserve(members.size()); }) {
      to.reserve(members.size());  // growing would copy
      for (auto& [key, value] : members)
        static_cast<typename Json::object_t::Container&>(to).emplace_back(std::move(key), std::move(value));
    } else {
      for (auto& [key, value] : members) to.emplace(std::move(key), std::move(value));
    }
    return close(*object);
  }

  bool end_array() override {
    Owned<Json> array{Json(nlohmann::json::value_t::array)};
    auto& members = frames_.back().members;
    auto& to = array->template get_ref<typename Json::array_t&>();
    to.reserve(members.size());
    for (auto& [key, value] : members) to.push_back(std::move(value));
    return close(*array);
  }

  bool parse_error(std::size_t byte, const std::string& token, const nlohmann::json::exception& e) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error …"
    std::string why = e.what();
    if (const std::size_t at = why.find(": "); at != std::string::npos) why = why.substr(at + 2);
    if (const std::size_t at = why.find("; last read"); at != std::string::npos) why.resize(at);
    refuse(name_, "is not JSON: at byte " + std::to_string(byte) + ", " + why.substr(0, 200) +
                      (token.empty() ? "" : "; last read " + shown(token)));
  }

  Json take() { return std::move(root_); }

 private:
  struct Frame {
    std::string key;  ///< Of the member that is being read.
    std::vector<std::pair<std::string, Json>> members;
  };

  bool add(Json value) {
    if (++values_ > limits_.values)
      refuse(name_, "holds more than " + std::to_string(limits_.values) + " values; that many are not read");
    return place(value);
  }
  bool place(Json& value) {
    if (frames_.empty()) root_ = std::move(value);
    else frames_.back().members.emplace_back(std::move(frames_.back().key), std::move(value));
    return true;
  }
  bool open() {
    if (frames_.size() >= limits_.depth)
      refuse(name_, "nests objects and arrays more than " + std::to_string(limits_.depth) + " deep" + inside());
    if (++values_ > limits_.values)
      refuse(name_, "holds more than " + std::to_string(limits_.values) + " values; that many are not read");
    frames_.emplace_back();
    return true;
  }
  bool close(Json& value) {
    frames_.pop_back();
    return place(value);
  }
  /// Where the parser is, by the outermost keys.
  [[nodiscard]] std::string inside() const {
    std::string out;
    for (const Frame& f : frames_)
      if (!f.key.empty() && out.size() < 200) out += (out.empty() ? ", in " : " in ") + shown(f.key);
    return out;
  }

  void refuse_twice(const std::vector<std::pair<std::string, Json>>& members) const {
    std::vector<std::string_view> keys;
    keys.reserve(members.size());
    for (const auto& [key, value] : members) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end())
      refuse(name_, "has the key " + shown(*twice) + " twice in one object; one of the two must go");
  }

  const std::string& name_;
  const Limits& limits_;
  std::vector<Frame> frames_;
  std::size_t values_ = 0;
  Json root_;
};

template <class Json>
Owned<Json> parsed(std::string_view text, const std::string& name, const Limits& limits) {
  if (text.size() > limits.bytes)
    refuse(name, "has " + std::to_string(text.size()) + " bytes of JSON; " + std::to_string(limits.bytes) +
                     " are the most that are read");
  Builder<Json> builder(name, limits);
  nlohmann::json::sax_parse(text, &builder);
  return Owned<Json>(builder.take());
}

}  // namespace

Document parse(std::string_view text, const std::string& name, const Limits& limits) {
  return parsed<nlohmann::json>(text, name, limits);
}

OrderedDocument parse_ordered(std::string_view text, const std::string& name, const Limits& limits) {
  return parsed<nlohmann::ordered_json>(text, name, limits);
}

}  // namespace nibble::inline NIBBLE_ABI::json
