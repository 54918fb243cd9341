#include "compare_rows.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "compare_steps.h"
#include "core/available_memory.h"
#include "interrupt.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/core/parallel.h"
#include "nibble/model/config.h"
#include "progress_bar.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

/// Methods that store the same model, and their rows of the table.
struct Group {
  std::vector<std::string> methods;
  std::vector<std::size_t> rows;
};

/// Runs tasks on threads of their own while this one shows how far they are.
class TaskRun {
 public:
  struct Task {
    std::string name;
    std::size_t steps = 1;  ///< Of the progress.
    std::function<void()> work;
  };

  /// `total`: steps of all runs, of which `before` are done.
  TaskRun(std::vector<Task> tasks, ProgressBar& bar, std::size_t before, std::size_t total)
      : tasks_(std::move(tasks)), bar_(bar), done_(before), total_(total) {}

  /// An error that a task throws ends the run when the tasks that have begun are through, and is thrown then.
  void run(int jobs) {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < std::min(tasks_.size(), static_cast<std::size_t>(jobs)); ++i) {
      const std::lock_guard lock(mutex_);
      try {
        threads.emplace_back([this] { take_tasks(); });
      } catch (const std::exception&) {
        if (threads.empty()) throw;
        break;  // fewer threads do as well
      }
      ++active_;
    }
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, std::chrono::milliseconds(100), [&] { return active_ == 0; }))
      (void)bar_.update(static_cast<double>(done_) / static_cast<double>(total_),
                        fmt::format("{}", fmt::join(running_, ", ")));
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void take_tasks() {
    std::unique_lock lock(mutex_);
    while (next_ < tasks_.size() && !error_) {
      const Task& task = tasks_[next_++];
      running_.push_back(task.name);
      lock.unlock();
      std::exception_ptr error;
      try {
        task.work();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error) error_ = error;
      std::erase(running_, task.name);
      done_ += task.steps;
    }
    --active_;
    changed_.notify_all();
  }

  std::vector<Task> tasks_;
  ProgressBar& bar_;
  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::vector<std::string> running_;
  std::exception_ptr error_;
  std::size_t next_ = 0, active_ = 0, done_, total_;
};

class Comparison {
 public:
  Comparison(const CompareOptions& o, const CompareResult& found,
             const std::function<void(const CompareResult&)>& on_rows)
      : o_(o), found_(found), on_rows_(on_rows), rows_(o.methods.size()), reference_(found.reference) {
    for (std::size_t i = 0; i < o.methods.size(); ++i)
      for (const CompareRow& row : found.rows)
        if (row.method == o.methods[i] && row.failure.empty()) rows_[i] = row;
  }

  CompareResult run() {
    const std::vector<Group> groups = missing();
    const bool compares = !reference_.failure.empty() || reference_.method.empty() || !groups.empty();
    if (!compares) return result();
    const SlowToStop while_steps_end;  // those of the rows that run, which ask more often
    const int jobs = o_.jobs != 0 ? o_.jobs : jobs_for(o_);
    CompareSteps steps(o_, std::min<int>(jobs, static_cast<int>(std::max<std::size_t>(groups.size(), 1))));
    std::size_t total = 1;
    for (const Group& g : groups) total += g.methods.size();
    ProgressBar bar("comparing");
    try {
      TaskRun({{"fp32", 1, [&] { take_reference(steps.reference()); }}}, bar, 0, total).run(1);
      std::vector<TaskRun::Task> tasks;
      for (const Group& g : groups)
        tasks.push_back({g.methods.front(), g.methods.size(), [&] { take(g, steps.rows(g.methods)); }});
      TaskRun(std::move(tasks), bar, 1, total).run(jobs);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::cancelled) throw;
      interrupted_ = true;
    }
    return result();
  }

 private:
  /// What no row is there of yet, but fp32, which the reference is.
  [[nodiscard]] std::vector<Group> missing() const {
    std::vector<Group> out;
    for (std::size_t i = 0; i < o_.methods.size(); ++i) {
      if (rows_[i] || o_.methods[i] == "fp32") continue;
      const auto same = std::ranges::find_if(
          out, [&](const Group& g) { return stored_name(g.methods.front()) == stored_name(o_.methods[i]); });
      Group& group = same == out.end() ? out.emplace_back() : *same;
      group.methods.push_back(o_.methods[i]);
      group.rows.push_back(i);
    }
    return out;
  }

  void take_reference(CompareRow row) {
    const CompareRow& before = found_.reference;
    // What is computed depends on neither threads nor backend, so one number tells whether it is the same computation.
    if (!before.method.empty() && before.failure.empty() && row.failure.empty() && before.perplexity != row.perplexity)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("the rows of '{}' were made by another build: fp32's perplexity was {} and is {}; leave "
                              "--resume out to measure all again",
                              o_.json, before.perplexity, row.perplexity));
    const std::lock_guard lock(mutex_);
    reference_ = std::move(row);
    on_rows_(result());
  }

  void take(const Group& group, std::vector<CompareRow> rows) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < rows.size(); ++i) rows_[group.rows[i]] = std::move(rows[i]);
    on_rows_(result());
  }

  [[nodiscard]] CompareResult result() const {
    CompareResult out;
    out.reference = reference_;
    out.interrupted = interrupted_;
    for (std::size_t i = 0; i < rows_.size(); ++i)
      if (o_.methods[i] == "fp32" && !reference_.method.empty()) out.rows.push_back(reference_);
      else if (rows_[i]) out.rows.push_back(*rows_[i]);
    return out;
  }

  const CompareOptions& o_;
  const CompareResult& found_;
  const std::function<void(const CompareResult&)>& on_rows_;
  std::mutex mutex_;  ///< Of what follows, while rows come in.
  std::vector<std::optional<CompareRow>> rows_;
  CompareRow reference_;
  bool interrupted_ = false;
};

}  // namespace

fs::path place_of(const fs::path& folder, std::string_view method) {
  return folder / (std::string(stored_name(method)) + (parse_compared_method(method).gguf.empty() ? "" : ".gguf"));
}

int jobs_for(const CompareOptions& o) {
  const model::Config c = model::Config::load(o.model);
  std::size_t weights = (c.tied_embeddings ? 1 : 2) * c.vocab * c.hidden;
  for (const model::Module& m : c.architecture().linears())
    weights += c.layers * (m.is_expert() ? c.experts : 1) * c.elements(m.out) * c.elements(m.in);
  const std::size_t window = std::min(o.window, c.context), sequences = o.samples != 0 ? o.samples : 128;
  const std::size_t logits = 2 * window * c.vocab, states = 2 * sequences * 512 * c.hidden;
  constexpr std::size_t program = std::size_t{256} << 20;
  const std::size_t one = sizeof(float) * (weights + logits + states) + program;
  const auto fit = static_cast<int>(std::min<std::size_t>(available_memory() / 5 * 4 / one, 1024));
  return std::max(1, std::min({fit, default_executor().concurrency(), static_cast<int>(o.methods.size())}));
}

CompareResult compare_methods(const CompareOptions& options, const CompareResult& found,
                              const std::function<void(const CompareResult&)>& on_rows) {
  return Comparison(options, found, on_rows).run();
}

}  // namespace nibble::cli
