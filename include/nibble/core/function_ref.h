// A non-owning reference to a callable: two words, no allocation. For parameters only; never store one.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

template <class Signature>
class FunctionRef;

template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> && std::is_invocable_r_v<R, F&, Args...>)
  FunctionRef(F&& callable)  // NOLINT(google-explicit-constructor): a lambda must convert at the call
      : object_(address_of(callable)), call_([](void* object, Args... args) -> R {
          return (*reinterpret_cast<std::add_pointer_t<F>>(object))(std::forward<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  /// Of a function too, whose address no static_cast makes a void*.
  template <class F>
  static void* address_of(F& callable) {
    if constexpr (std::is_function_v<F>) return reinterpret_cast<void*>(&callable);
    else return const_cast<void*>(static_cast<const void*>(std::addressof(callable)));
  }

  void* object_;
  R (*call_)(void*, Args...);
};

}  // namespace nibble::inline NIBBLE_ABI
