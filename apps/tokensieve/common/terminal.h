// What people see: progress on stderr, tables and small charts on stdout.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tokensieve::cli {

bool is_terminal(int fd);
// A terminal, and the user did not set NO_COLOR.
bool wants_color(int fd);
std::string bold(std::string_view text, bool color);

std::string format_count(int64_t n);               // 7512 -> "7,512"
std::string format_duration(double milliseconds);  // "850 ms", "12.3 s", "2 min 05 s"
std::string format_bytes(double bytes);            // "570 MiB", "1.3 GiB"

// Columns that a terminal needs for UTF-8 text (one per code point: enough for what we print).
size_t display_width(std::string_view text);
// Words broken into lines of at most `width` columns; line breaks in the text are kept.
std::vector<std::string> wrap(std::string_view text, size_t width);

// `fraction` (clamped to 0..1) of `width` cells in eighths of a block; empty cells are blanks.
std::string bar(double fraction, int width);

// Left-aligned columns; a cell may hold several lines.
class Table {
 public:
  void add_row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string render() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// How much of something is done: 0 to 1.
using OnProgress = std::function<void(double fraction)>;
// The same for one of `count` parts of it that take about as long each.
OnProgress part_of(OnProgress whole, size_t part, size_t count);

// One line that redraws itself on a terminal; elsewhere a line at the end only.
class Progress {
 public:
  // `total` counts `unit`s, e.g. 7512 "tokens".
  Progress(std::string label, int64_t total, std::string unit);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(double fraction);
  // What is going on right now, between the label and the bar.
  void set_detail(std::string detail) { detail_ = std::move(detail); }
  // Replaces the bar by a summary line.
  void finish();
  void clear();

 private:
  double elapsed_ms() const;
  std::string rate(int64_t done, double elapsed_ms) const;
  void draw(double fraction);

  std::string label_;
  std::string detail_;
  int64_t total_;
  std::string unit_;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_draw_;
};

}  // namespace tokensieve::cli
