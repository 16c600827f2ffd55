// Files and folders on POSIX: reads that are whole or an error, never a hang; writes that appear whole or not at all.
// NOT_FOUND: it is missing. DISK_FULL: no space or quota. IO: anything else, with the system's words. Nothing is mapped:
// a file that shrinks or a disk that fails gives an error, not a signal.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/fd.h"

namespace isr {

// A regular file open for reading; parallel readers are fine. `code` is for what is no I/O error but a wrong file: a
// folder, FIFO or device in its place, or an end before the bytes asked for.
class InputFile {
 public:
  InputFile() = default;
  explicit InputFile(std::string path, const char* code = "IO");
  void read_exact(void* dst, size_t bytes, uint64_t offset) const;
  uint64_t size() const { return size_; }  // when it was opened
  const std::string& path() const { return path_; }

 private:
  Fd fd_;
  std::string path_;
  const char* code_ = "IO";
  uint64_t size_ = 0;
};

// The whole file; longer than max_bytes is an error of the given code.
std::string read_file(const std::string& path, size_t max_bytes, const char* code = "IO");

// A new file, written front to back.
class OutputFile {
 public:
  OutputFile() = default;
  explicit OutputFile(std::string path);  // created or emptied
  void write(const void* data, size_t bytes);
  void finish();  // fsync and close; without it the file may be half there
  uint64_t written() const { return written_; }
  const std::string& path() const { return path_; }

 private:
  Fd fd_;
  std::string path_;
  uint64_t written_ = 0;
};

// Writes <path>.tmp; commit() makes it appear at `path`, whole and durable. Without commit `path` stays as it was and
// the tmp file is removed. When commit() fails, `path` is the old file or the new one, whole.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  void write(const void* data, size_t bytes) { out_.write(data, bytes); }
  void write(std::string_view text) { out_.write(text.data(), text.size()); }
  void commit();
  uint64_t written() const { return out_.written(); }

 private:
  std::string path_;
  OutputFile out_;
  bool done_ = false;
};

void write_file_atomic(const std::string& path, std::string_view bytes);

// A folder that appears whole: files go to a hidden sibling; commit() swaps it in with one rename (exchange), so
// that at any instant `dir` is the old folder or the new one. Where the file system cannot exchange, the old one has
// a hidden name for a moment; recover_folder() puts it back after a crash in that moment.
// Files of an existing `dir` that the new one lacks are kept where keep(name) is true (hard links); a folder with
// sub-folders is refused (INVALID_ARGUMENT), since replacing it would lose them.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::string& dir, std::function<bool(const std::string& name)> keep = {});
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  std::string file(const std::string& name) const { return tmp_ + "/" + name; }  // for OutputFile; finish() each
  void commit();

 private:
  void keep_old_files();
  void swap_in();
  void sync_or_undo(const std::function<void()>& undo);

  std::string dir_, tmp_, parent_;
  std::function<bool(const std::string&)> keep_;
  Fd lock_, old_lock_;
  bool done_ = false;
};

void recover_folder(const std::string& dir);  // nothing to do where `dir` exists, or no folder that a save has replaced

struct FolderEntry { std::string name; bool regular = false, folder = false; };  // of what a link points to
std::vector<FolderEntry> list_folder(const std::string& dir);                    // by name
bool file_exists(const std::string& path);                                       // anything at all, links followed
bool is_temporary(const std::string& name);                                      // one that this package gives what is not finished
void make_folders(const std::string& dir);                                       // with parents, as mkdir -p
void remove_tree(const std::string& path);                                       // never follows links; missing is fine
// Synced; poll() is called between chunks; gives the number of bytes.
uint64_t copy_file(const std::string& from, const std::string& to, const std::function<void()>& poll = {});

// Throws DISK_FULL, NOT_FOUND or IO for the errno value `error`: "<what> <path>: <the system's words>".
[[noreturn]] void throw_system(const char* what, const std::string& path, int error);

}  // namespace isr
