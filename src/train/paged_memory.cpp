#include "paged_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "core/files.h"

namespace nibble::inline NIBBLE_ABI::train {

PagedMemory::PagedMemory(std::size_t bytes, const std::filesystem::path& folder) {
  if (bytes == 0) return;
  // Without a name, so that no crash leaves it behind.
  std::string pattern = (folder / "state-XXXXXX").string();
  const files::Descriptor file(::mkostemp(pattern.data(), O_CLOEXEC));
  if (file.get() < 0) files::throw_system_error("create a file for the optimizer's state in", folder);
  ::unlink(pattern.c_str());
  if (const int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(bytes)); error != 0) {
    errno = error;
    files::throw_system_error(("make room for " + std::to_string(bytes) + " bytes of optimizer state in").c_str(),
                              folder);
  }
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (memory == MAP_FAILED) files::throw_system_error("map the optimizer's state in", folder);
  bytes_ = {static_cast<std::byte*>(memory), bytes};
}

PagedMemory::~PagedMemory() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

void PagedMemory::release(std::span<std::byte> part) noexcept {
  static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t before = reinterpret_cast<std::uintptr_t>(part.data()) % page;
  // A page that is in part another's is read again, too.
  (void)::madvise(part.data() - before, before + part.size(), MADV_DONTNEED);
}

}  // namespace nibble::inline NIBBLE_ABI::train
