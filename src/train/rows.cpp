#include "nibble/train/rows.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::train {

namespace {

constexpr std::array<std::pair<std::string_view, Packing>, 3> kPackings{
    {{"none", Packing::none}, {"best-fit", Packing::best_fit}, {"wrapped", Packing::wrapped}}};

/// Some of a sample's tokens, in one run. The first of them is predicted from nothing, wherever it stood.
struct Piece {
  std::span<const std::int32_t> ids;
  std::span<const std::uint8_t> trained;

  [[nodiscard]] Piece part(std::size_t first, std::size_t count) const {
    return {ids.subspan(first, count), trained.subspan(first, count)};
  }
  [[nodiscard]] std::size_t targets() const {
    const auto marks = trained.subspan(std::min<std::size_t>(1, trained.size()));
    return marks.size() - static_cast<std::size_t>(std::ranges::count(marks, 0));
  }
};

/// `what`: "sample" or "row".
void require_marks(const char* what, std::size_t tokens, std::size_t marks) {
  if (tokens != marks)
    throw Error(ErrorCode::shape_mismatch, "a " + std::string(what) + " has " + std::to_string(tokens) +
                                               " tokens and " + std::to_string(marks) +
                                               " marks of whether they are trained on; each token needs one");
}

Piece piece_of(const Sample& sample) {
  require_marks("sample", sample.ids.size(), sample.trained.size());
  return {sample.ids, sample.trained};
}

void append_piece(Row& row, const Piece& piece) {
  if (piece.ids.empty()) return;  // two samples would begin at one place
  row.starts.push_back(row.ids.size());
  row.ids.insert(row.ids.end(), piece.ids.begin(), piece.ids.end());
  row.trained.insert(row.trained.end(), piece.trained.begin(), piece.trained.end());
}

std::vector<Row> one_row_each(std::span<const Piece> pieces) {
  std::vector<Row> rows(pieces.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) append_piece(rows[i], pieces[i]);
  return rows;
}

std::vector<Row> best_fit(std::vector<Piece> pieces, std::size_t max_length) {
  std::ranges::stable_sort(pieces, [](const Piece& a, const Piece& b) { return a.ids.size() > b.ids.size(); });
  std::vector<Row> rows;
  std::map<std::size_t, std::deque<std::size_t>> rows_by_room;  // those that are not full; the first came first
  for (const Piece& piece : pieces) {
    std::size_t row = rows.size(), room = max_length;
    if (const auto fits = rows_by_room.lower_bound(piece.ids.size()); fits != rows_by_room.end()) {
      room = fits->first;
      row = fits->second.front();
      fits->second.pop_front();
      if (fits->second.empty()) rows_by_room.erase(fits);
    } else {
      rows.emplace_back();
    }
    append_piece(rows[row], piece);
    if (room > piece.ids.size()) rows_by_room[room - piece.ids.size()].push_back(row);
  }
  return rows;
}

std::vector<Row> wrapped(std::span<const Piece> pieces, std::size_t max_length) {
  std::vector<Row> rows;
  for (const Piece& piece : pieces)
    for (std::size_t done = 0; done < piece.ids.size();) {
      if (rows.empty() || rows.back().ids.size() == max_length) rows.emplace_back();
      const std::size_t count = std::min(piece.ids.size() - done, max_length - rows.back().ids.size());
      append_piece(rows.back(), piece.part(done, count));
      done += count;
    }
  // Such as the last row of a single token, or one that the middle of a long prompt fills.
  std::erase_if(rows, [](const Row& row) { return row.targets() == 0; });
  return rows;
}

}  // namespace

std::size_t Sample::targets() const { return piece_of(*this).targets(); }

void Row::append(const Sample& sample) { append_piece(*this, piece_of(sample)); }

void Row::append(const Row& row) {
  if (&row == this) return append(Row(row));  // a vector cannot take in its own elements while it grows
  require_marks("row", row.ids.size(), row.trained.size());
  for (const std::size_t start : row.starts) starts.push_back(ids.size() + start);
  ids.insert(ids.end(), row.ids.begin(), row.ids.end());
  trained.insert(trained.end(), row.trained.begin(), row.trained.end());
}

std::size_t Row::targets() const {
  const auto targets = targets_of(*this);
  return targets.size() - static_cast<std::size_t>(std::ranges::count(targets, kNoTarget));
}

std::vector<std::size_t> targets_of(const Row& row) {
  require_marks("row", row.ids.size(), row.trained.size());
  std::vector<std::size_t> targets(row.ids.size(), kNoTarget);
  for (std::size_t i = 1; i < row.ids.size(); ++i)
    if (row.trained[i] != 0) targets[i - 1] = static_cast<std::size_t>(row.ids[i]);
  for (const std::size_t start : row.starts) {
    if (start >= row.ids.size())
      throw Error(ErrorCode::shape_mismatch, "a sample begins at token " + std::to_string(start) + " of a row of " +
                                                 std::to_string(row.ids.size()));
    if (start > 0) targets[start - 1] = kNoTarget;
  }
  return targets;
}

Packing parse_packing(std::string_view name) {
  std::string names;
  for (const auto& [known, packing] : kPackings) {
    if (known == name) return packing;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw Error(ErrorCode::invalid_argument, "there is no packing '" + std::string(name) + "'; there are " + names);
}

std::string_view name_of(Packing packing) {
  return std::ranges::find(kPackings, packing, [](const auto& known) { return known.second; })->first;
}

std::vector<Row> pack_rows(const std::vector<Sample>& samples, std::size_t max_length, Packing packing) {
  if (max_length < 2)
    throw Error(ErrorCode::invalid_argument, "max_length is " + std::to_string(max_length) +
                                                 "; a row needs 2 tokens at least, one to predict the other from");
  std::vector<Piece> pieces;
  for (const Sample& sample : samples) {
    Piece piece = piece_of(sample);
    if (packing != Packing::wrapped) piece = piece.part(0, std::min(piece.ids.size(), max_length));
    if (piece.targets() > 0) pieces.push_back(piece);
  }
  switch (packing) {
    case Packing::none: return one_row_each(pieces);
    case Packing::best_fit: return best_fit(std::move(pieces), max_length);
    case Packing::wrapped: return wrapped(pieces, max_length);
  }
  throw Error(ErrorCode::invalid_argument, "a packing that is none of this library's");
}

}  // namespace nibble::inline NIBBLE_ABI::train
