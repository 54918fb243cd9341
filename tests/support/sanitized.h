// Whether the tests are built with the address or the thread sanitizer, which come with an allocator of their own.
#pragma once

namespace nibble::testing_support {

#if defined(__has_feature)  // clang
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define NIBBLE_SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NIBBLE_SANITIZED 1
#endif
#if defined(NIBBLE_SANITIZED)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

}  // namespace nibble::testing_support
