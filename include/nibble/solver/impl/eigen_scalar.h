// The numbers that the solvers hand to Eigen.
//
// Eigen adds up in the order that the widest vectors of the instruction set suggest, and where the blocks of a product
// end it takes from the size of the machine's caches: a unit compiled for AVX, or another processor, gets other bits.
// The solvers therefore give it a scalar type of their own, whose packets are those that Eigen has for SSE2 whatever
// the unit's flags are, whose blocks are the same everywhere, and whose products nothing fuses with an addition. A type
// of one's own also keeps these instances of Eigen's templates apart from the program's. (On other architectures Eigen
// takes sizes of caches that do not depend on the machine.)
#pragma once

#include <Eigen/Core>

#include "nibble/core/abi.h"

#if EIGEN_VERSION_AT_LEAST(3, 4, 0) && !EIGEN_VERSION_AT_LEAST(3, 4, 90)
#define NIBBLE_KNOWS_EIGEN 1
#elif defined(NIBBLE_HEADER_ONLY)
#error "nibble: by headers alone it knows the packets of Eigen 3.4"
#endif

#if defined(NIBBLE_KNOWS_EIGEN) && defined(__x86_64__)

#include <emmintrin.h>

#include <algorithm>
#include <cmath>
#include <compare>
#include <type_traits>

namespace nibble::inline NIBBLE_ABI::solver {

/// x, which the compiler must take for something it has not seen made.
template <class V>
inline V unseen(V x) {
  asm("" : "+x"(x));
  return x;
}

/// T with products that are rounded.
template <class T>
struct EigenScalar {
  T value;

  EigenScalar() = default;
  template <class U>
    requires std::is_arithmetic_v<U>
  constexpr EigenScalar(U x) : value(static_cast<T>(x)) {}  // NOLINT(google-explicit-constructor): a number is one
  explicit operator T() const { return value; }

  friend EigenScalar operator+(EigenScalar a, EigenScalar b) { return a.value + b.value; }
  friend EigenScalar operator-(EigenScalar a, EigenScalar b) { return a.value - b.value; }
  friend EigenScalar operator*(EigenScalar a, EigenScalar b) { return unseen(a.value * b.value); }
  friend EigenScalar operator/(EigenScalar a, EigenScalar b) { return a.value / b.value; }
  EigenScalar operator-() const { return -value; }
  EigenScalar& operator+=(EigenScalar b) { return *this = *this + b; }
  EigenScalar& operator-=(EigenScalar b) { return *this = *this - b; }
  EigenScalar& operator*=(EigenScalar b) { return *this = *this * b; }
  EigenScalar& operator/=(EigenScalar b) { return *this = *this / b; }
  friend auto operator<=>(EigenScalar, EigenScalar) = default;
  friend EigenScalar sqrt(EigenScalar a) { return std::sqrt(a.value); }
  friend EigenScalar abs(EigenScalar a) { return std::abs(a.value); }
};

/// The instructions behind a packet.
template <class T>
struct EigenLanes;
template <>
struct EigenLanes<float> {
  using Vector = __m128;
  static constexpr int size = 4;
  static Vector load(const float* p) { return _mm_loadu_ps(p); }
  static void store(float* p, Vector x) { _mm_storeu_ps(p, x); }
  static Vector set(float x) { return _mm_set1_ps(x); }
  static Vector twice(const float* p) { return _mm_set_ps(p[1], p[1], p[0], p[0]); }
  static Vector reversed(Vector x) { return _mm_shuffle_ps(x, x, 0x1B); }
  static Vector magnitude(Vector x) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), x); }
  static Vector negative(Vector x) { return _mm_xor_ps(_mm_set1_ps(-0.0f), x); }
  static float first(Vector x) { return _mm_cvtss_f32(x); }
  static float sum(Vector x) {  // (x0 + x2) + (x1 + x3)
    const Vector pairs = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return first(_mm_add_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
  }
};
template <>
struct EigenLanes<double> {
  using Vector = __m128d;
  static constexpr int size = 2;
  static Vector load(const double* p) { return _mm_loadu_pd(p); }
  static void store(double* p, Vector x) { _mm_storeu_pd(p, x); }
  static Vector set(double x) { return _mm_set1_pd(x); }
  static Vector twice(const double* p) { return _mm_set1_pd(*p); }
  static Vector reversed(Vector x) { return _mm_shuffle_pd(x, x, 1); }
  static Vector magnitude(Vector x) { return _mm_andnot_pd(_mm_set1_pd(-0.0), x); }
  static Vector negative(Vector x) { return _mm_xor_pd(_mm_set1_pd(-0.0), x); }
  static double first(Vector x) { return _mm_cvtsd_f64(x); }
  static double sum(Vector x) { return first(_mm_add_sd(x, _mm_unpackhi_pd(x, x))); }
};

/// What Eigen's Packet4f and Packet2d are for float and double.
template <class T>
struct EigenPacket {
  using Lanes = EigenLanes<T>;
  typename Lanes::Vector v;

  EigenPacket() = default;
  EigenPacket(typename Lanes::Vector x) : v(x) {}            // NOLINT(google-explicit-constructor)
  EigenPacket(EigenScalar<T> x) : v(Lanes::set(x.value)) {}  // NOLINT(google-explicit-constructor)
  friend EigenPacket operator+(EigenPacket a, EigenPacket b) { return a.v + b.v; }
  friend EigenPacket operator-(EigenPacket a, EigenPacket b) { return a.v - b.v; }
  friend EigenPacket operator*(EigenPacket a, EigenPacket b) { return unseen(a.v * b.v); }
  friend EigenPacket operator/(EigenPacket a, EigenPacket b) { return a.v / b.v; }
  EigenPacket operator-() const { return Lanes::negative(v); }
};

}  // namespace nibble::inline NIBBLE_ABI::solver

namespace Eigen {

template <class T>
struct NumTraits<nibble::solver::EigenScalar<T>> : NumTraits<T> {
  using Real = nibble::solver::EigenScalar<T>;
  using NonInteger = Real;
  using Nested = Real;
  using Literal = Real;
  static Real epsilon() { return NumTraits<T>::epsilon(); }
  static Real dummy_precision() { return NumTraits<T>::dummy_precision(); }
  static Real highest() { return NumTraits<T>::highest(); }
  static Real lowest() { return NumTraits<T>::lowest(); }
};

namespace internal {

template <class T>
struct packet_traits<nibble::solver::EigenScalar<T>> : default_packet_traits {
  using type = nibble::solver::EigenPacket<T>;
  using half = type;
  enum { Vectorizable = 1, AlignedOnScalar = 1, size = type::Lanes::size, HasHalfPacket = 0, HasCmp = 0, HasDiv = 1 };
};
template <class T>
struct unpacket_traits<nibble::solver::EigenPacket<T>> {
  using type = nibble::solver::EigenScalar<T>;
  using half = nibble::solver::EigenPacket<T>;
  enum {
    size = half::Lanes::size,
    alignment = Aligned16,
    vectorizable = true,
    masked_load_available = false,
    masked_store_available = false
  };
};

// With a fused multiply-add among a unit's instructions Eigen would take rows of a product twelve at a time.
template <class T, bool ConjLhs, bool ConjRhs, int PacketSize>
class gebp_traits<nibble::solver::EigenScalar<T>, nibble::solver::EigenScalar<T>, ConjLhs, ConjRhs,
                  Architecture::Target, PacketSize>
    : public gebp_traits<nibble::solver::EigenScalar<T>, nibble::solver::EigenScalar<T>, ConjLhs, ConjRhs, -1,
                         PacketSize> {
 public:
  enum { mr = 2 * nibble::solver::EigenLanes<T>::size };
};

/// Eigen's blocking of a product m × k by k × n for one thread, evaluateProductBlockingSizesHeuristic, for caches of
/// 48 KiB and 2 MiB and a third one, whatever the machine has: where the blocks of k end shows in the sums.
template <class T, int KcFactor>
void block_sizes_of_sse(Index& k, Index& m, Index& n) {
  constexpr Index size = sizeof(T), mr = 2 * nibble::solver::EigenLanes<T>::size, nr = 4, peeling = 8;
  if (std::max({k, m, n}) < 48) return;
  constexpr Index l1 = 48 * 1024, l2 = 2048 * 1024;
  const Index sub = mr * nr * size,
              most_k = std::max<Index>((l1 - sub) / (KcFactor * (mr + nr) * size) & ~(peeling - 1), 1);
  const Index depth = k;
  if (k > most_k)
    k = k % most_k == 0 ? most_k : most_k - peeling * ((most_k - 1 - k % most_k) / (peeling * (k / most_k + 1)));

  constexpr Index cache = 1572864;
  const Index left = l1 - sub - m * k * size;
  const Index most_n = left >= nr * size * k ? left / (k * size) : 3 * cache / (4 * most_k * size);
  const Index columns = std::min(cache / (2 * k * size), most_n) & ~(nr - 1);
  if (n > columns) {
    n = n % columns == 0 ? columns : columns - nr * ((columns - n % columns) / (nr * (n / columns + 1)));
  } else if (depth == k) {
    const Index problem = k * n * size;
    const bool in_l2 = problem > 1024 && problem <= 32768;
    const Index room = problem <= 1024 ? l1 : in_l2 ? l2 : cache;
    Index rows = std::min(room / (3 * k * size), in_l2 ? std::min<Index>(576, m) : m);
    if (rows == 0) return;
    if (rows > mr) rows -= rows % mr;
    m = m % rows == 0 ? rows : rows - mr * ((rows - m % rows) / (mr * (m / rows + 1)));
  }
}
#define NIBBLE_EIGEN_BLOCKING(Scalar, T, KcFactor)                                                                   \
  template <>                                                                                                        \
  inline void computeProductBlockingSizes<Scalar, Scalar, KcFactor, Index>(Index & k, Index & m, Index & n, Index) { \
    block_sizes_of_sse<T, KcFactor>(k, m, n);                                                                        \
  }
NIBBLE_EIGEN_BLOCKING(nibble::solver::EigenScalar<float>, float, 1)
NIBBLE_EIGEN_BLOCKING(nibble::solver::EigenScalar<float>, float, 4)
NIBBLE_EIGEN_BLOCKING(nibble::solver::EigenScalar<double>, double, 1)
NIBBLE_EIGEN_BLOCKING(nibble::solver::EigenScalar<double>, double, 4)
#undef NIBBLE_EIGEN_BLOCKING

// Eigen's functions of a packet are templates that each type specialises.
#define NIBBLE_EIGEN_FUNCTIONS(Scalar, Packet)                                       \
  template <>                                                                        \
  inline Packet pload<Packet>(const Scalar* from) {                                  \
    return Packet::Lanes::load(&from->value);                                        \
  }                                                                                  \
  template <>                                                                        \
  inline Packet ploadu<Packet>(const Scalar* from) {                                 \
    return Packet::Lanes::load(&from->value);                                        \
  }                                                                                  \
  template <>                                                                        \
  inline Packet ploaddup<Packet>(const Scalar* from) {                               \
    return Packet::Lanes::twice(&from->value);                                       \
  }                                                                                  \
  template <>                                                                        \
  inline void pstore<Scalar, Packet>(Scalar * to, const Packet& x) {                 \
    Packet::Lanes::store(&to->value, x.v);                                           \
  }                                                                                  \
  template <>                                                                        \
  inline void pstoreu<Scalar, Packet>(Scalar * to, const Packet& x) {                \
    Packet::Lanes::store(&to->value, x.v);                                           \
  }                                                                                  \
  template <>                                                                        \
  inline Packet pgather<Scalar, Packet>(const Scalar* from, Index stride) {          \
    Scalar values[Packet::Lanes::size];                                              \
    for (Index i = 0; i < Packet::Lanes::size; ++i) values[i] = from[i * stride];    \
    return ploadu<Packet>(values);                                                   \
  }                                                                                  \
  template <>                                                                        \
  inline void pscatter<Scalar, Packet>(Scalar * to, const Packet& x, Index stride) { \
    Scalar values[Packet::Lanes::size];                                              \
    pstoreu(values, x);                                                              \
    for (Index i = 0; i < Packet::Lanes::size; ++i) to[i * stride] = values[i];      \
  }                                                                                  \
  template <>                                                                        \
  inline Packet preverse(const Packet& x) {                                          \
    return Packet::Lanes::reversed(x.v);                                             \
  }                                                                                  \
  template <>                                                                        \
  inline Packet pabs(const Packet& x) {                                              \
    return Packet::Lanes::magnitude(x.v);                                            \
  }                                                                                  \
  template <>                                                                        \
  inline Packet pconj(const Packet& x) {                                             \
    return x;                                                                        \
  }                                                                                  \
  template <>                                                                        \
  inline Scalar pfirst<Packet>(const Packet& x) {                                    \
    return Packet::Lanes::first(x.v);                                                \
  }                                                                                  \
  template <>                                                                        \
  inline Scalar predux<Packet>(const Packet& x) {                                    \
    return Packet::Lanes::sum(x.v);                                                  \
  }
NIBBLE_EIGEN_FUNCTIONS(nibble::solver::EigenScalar<float>, nibble::solver::EigenPacket<float>)
NIBBLE_EIGEN_FUNCTIONS(nibble::solver::EigenScalar<double>, nibble::solver::EigenPacket<double>)
#undef NIBBLE_EIGEN_FUNCTIONS

inline void ptranspose(PacketBlock<nibble::solver::EigenPacket<float>, 4>& block) {
  _MM_TRANSPOSE4_PS(block.packet[0].v, block.packet[1].v, block.packet[2].v, block.packet[3].v);
}
inline void ptranspose(PacketBlock<nibble::solver::EigenPacket<double>, 2>& block) {
  const __m128d low = block.packet[0].v, high = block.packet[1].v;
  block.packet[0].v = _mm_unpacklo_pd(low, high);
  block.packet[1].v = _mm_unpackhi_pd(low, high);
}

}  // namespace internal
}  // namespace Eigen

#else

namespace nibble::inline NIBBLE_ABI::solver {

template <class T>
using EigenScalar = T;

}  // namespace nibble::inline NIBBLE_ABI::solver

#endif

namespace nibble::inline NIBBLE_ABI::solver {

template <class T>
using EigenMatrix = Eigen::Matrix<EigenScalar<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The same memory as Eigen's numbers, and back.
template <class T>
EigenScalar<T>* for_eigen(T* p) {
  return reinterpret_cast<EigenScalar<T>*>(p);
}
template <class T>
const EigenScalar<T>* for_eigen(const T* p) {
  return reinterpret_cast<const EigenScalar<T>*>(p);
}

}  // namespace nibble::inline NIBBLE_ABI::solver
