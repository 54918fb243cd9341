// operator new of the tool: the same as the standard's, but that its exception says how much was asked for.
#include <cstdio>
#include <cstdlib>
#include <new>

namespace {

class Refused final : public std::bad_alloc {
 public:
  explicit Refused(std::size_t bytes) noexcept { std::snprintf(text_, sizeof text_, "%zu bytes were refused", bytes); }
  [[nodiscard]] const char* what() const noexcept override { return text_; }

 private:
  char text_[48];
};

void* allocate(std::size_t bytes, std::size_t alignment) {
  for (;;) {
    void* const out = alignment == 0 ? std::malloc(bytes == 0 ? 1 : bytes)
                                     : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (out != nullptr) return out;
    const std::new_handler handler = std::get_new_handler();
    if (handler == nullptr) throw Refused(bytes);
    handler();
  }
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, 0); }
void* operator new[](std::size_t bytes) { return allocate(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
