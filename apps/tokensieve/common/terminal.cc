#include "common/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "common/output.h"

namespace tokensieve::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Fast enough to look alive, slow enough to cost nothing.
constexpr std::chrono::milliseconds kRedraw(100);
constexpr int kProgressCells = 24;

bool is_continuation(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  for (;;) {
    const size_t end = text.find('\n');
    lines.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return lines;
    text.remove_prefix(end + 1);
  }
}

}  // namespace

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

bool wants_color(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  return is_terminal(fd) && (no_color == nullptr || *no_color == '\0');
}

std::string bold(std::string_view text, bool color) {
  return color ? fmt::format("\033[1m{}\033[0m", text) : std::string(text);
}

std::string format_count(int64_t n) {
  std::string digits = fmt::format("{}", n);
  const size_t first = digits.front() == '-' ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3;) digits.insert(i -= 3, 1, ',');
  return digits;
}

std::string format_duration(double milliseconds) {
  if (milliseconds < 999.5) return fmt::format("{:.0f} ms", milliseconds);
  if (milliseconds < 99'950) return fmt::format("{:.1f} s", milliseconds / 1000);
  const int64_t seconds = std::llround(milliseconds / 1000);
  return fmt::format("{} min {:02} s", seconds / 60, seconds % 60);
}

std::string format_bytes(double bytes) {
  constexpr double kMiB = 1024 * 1024;
  if (bytes < 1000 * kMiB) return fmt::format("{:.0f} MiB", bytes / kMiB);
  return fmt::format("{:.1f} GiB", bytes / (1024 * kMiB));
}

size_t display_width(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines;
  for (const std::string& paragraph : split_lines(text)) {
    std::string line;
    size_t used = 0;
    for (size_t i = 0; i < paragraph.size();) {
      size_t end = paragraph.find(' ', i + 1);
      if (end == std::string::npos) end = paragraph.size();
      std::string word = paragraph.substr(i, end - i);  // with the blank before it
      i = end;
      if (used > 0 && used + display_width(word) > width) {
        lines.push_back(line);
        line.clear();
        used = 0;
        word.erase(0, word.find_first_not_of(' '));
      }
      line += word;
      used += display_width(word);
    }
    lines.push_back(line);
  }
  return lines;
}

std::string bar(double fraction, int width) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const double clamped = std::isnan(fraction) ? 0 : std::clamp(fraction, 0.0, 1.0);
  const int eighths = static_cast<int>(std::lround(clamped * width * 8));
  std::string cells;
  for (int i = 0; i < eighths / 8; ++i) cells += "█";
  cells += kEighths[eighths % 8];
  cells.append(static_cast<size_t>(width - (eighths + 7) / 8), ' ');
  return cells;
}

std::string Table::render() const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) {
      for (const std::string& line : split_lines(row[c])) {
        widths[c] = std::max(widths[c], display_width(line));
      }
    }
  }
  std::string text;
  for (const auto& row : rows_) {
    std::vector<std::vector<std::string>> cells;
    size_t height = 1;
    for (const std::string& cell : row) {
      cells.push_back(split_lines(cell));
      height = std::max(height, cells.back().size());
    }
    for (size_t l = 0; l < height; ++l) {
      std::string line;
      for (size_t c = 0; c < cells.size(); ++c) {
        const std::string part = l < cells[c].size() ? cells[c][l] : "";
        line += part + std::string(widths[c] - display_width(part) + 2, ' ');
      }
      line.erase(line.find_last_not_of(' ') + 1);
      text += line + "\n";
    }
  }
  return text;
}

OnProgress part_of(OnProgress whole, size_t part, size_t count) {
  if (!whole) return {};
  return [=, whole = std::move(whole)](double fraction) {
    whole((static_cast<double>(part) + fraction) / static_cast<double>(count));
  };
}

Progress::Progress(std::string label, int64_t total, std::string unit)
    : label_(std::move(label)),
      total_(total),
      unit_(std::move(unit)),
      terminal_(is_terminal(STDERR_FILENO)),
      start_(Clock::now()),
      last_draw_(start_) {
  if (terminal_) draw(0);
}

double Progress::elapsed_ms() const {
  return std::chrono::duration<double, std::milli>(Clock::now() - start_).count();
}

// Empty for what takes seconds each: a time says more than "0 runs/s".
std::string Progress::rate(int64_t done, double elapsed_ms) const {
  const double per_second = static_cast<double>(done) / elapsed_ms * 1000;
  return per_second < 1 ? "" : fmt::format(", {:.0f} {}/s", per_second, unit_);
}

void Progress::update(double fraction) {
  if (!terminal_ || Clock::now() - last_draw_ < kRedraw) return;
  draw(fraction);
}

void Progress::draw(double fraction) {
  last_draw_ = Clock::now();
  const double elapsed = elapsed_ms();
  const int64_t done = std::llround(fraction * static_cast<double>(total_));
  std::string state = fmt::format("▕{}▏ {}/{} {}", bar(fraction, kProgressCells),
                                  format_count(done), format_count(total_), unit_);
  if (fraction > 0 && elapsed > 0) {
    state += rate(done, elapsed) +
             fmt::format(", {} left", format_duration(elapsed * (1 - fraction) / fraction));
  }
  // In a narrow window less is said, so that no line wraps.
  winsize size = {};
  const bool has_width = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  const auto fits = [&](const std::string& line) {
    return !has_width || display_width(line) < size.ws_col;
  };
  std::string line = fmt::format("{} {} {}", label_, detail_, state);
  if (detail_.empty() || !fits(line)) line = fmt::format("{} {}", label_, state);
  if (!fits(line)) line = fmt::format("{} {:.0f} %", label_, fraction * 100);
  print_err("\r\033[K{}", line);
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::finish() {
  const double elapsed = elapsed_ms();
  clear();
  print_err("{}: {} {} in {}{}\n", label_, format_count(total_), unit_,
            format_duration(elapsed), rate(total_, elapsed));
}

void Progress::clear() {
  if (!drawn_) return;
  write_err("\r\033[K");
  std::fflush(stderr);
  drawn_ = false;
}

}  // namespace tokensieve::cli
