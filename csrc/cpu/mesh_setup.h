// From vertices to triangles on the pixel grid: camera, clipping, plane equations. Shared by the mesh rasteriser and
// the naive loop it is tested against.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "cpu/mesh_tile.h"
#include "ops.h"

namespace avatar {

// A point as homogeneous pixels: u = x / z, v = y / z; z is the depth in metres.
struct PixelPoint {
  double x, y, z;
};

struct MeshCamera {
  double rows[3][4];  // K [R | t]: world metres to homogeneous pixels
  int width, height;
  double near;  // metres

  double left() const { return 0.5 * width - MESH_GUARD; }
  double right() const { return 0.5 * width + MESH_GUARD; }
  double top() const { return 0.5 * height - MESH_GUARD; }
  double bottom() const { return 0.5 * height + MESH_GUARD; }
  // Signed distance to one of the five clipping planes, not negative inside.
  double distance(int plane, const PixelPoint& p) const {
    switch (plane) {
      case 0: return p.z - near;
      case 1: return p.x - left() * p.z;
      case 2: return right() * p.z - p.x;
      case 3: return p.y - top() * p.z;
      default: return bottom() * p.z - p.y;
    }
  }
};
constexpr int MESH_PLANES = 5;
constexpr uint8_t MESH_BROKEN = 128;  // a vertex that is not a finite number

struct MeshVertex {
  PixelPoint point;
  int32_t x, y;     // on the grid of 1/256 pixel; valid where beyond == 0
  uint8_t beyond;   // bit per clipping plane that the vertex lies outside of
};

// Inverse of the matrix of a face's three corners: rows[k] . (u, v, 1) is corner k's perspective weight over the depth.
struct FacePlanes {
  double rows[3][3];
  double z[3];  // depth of the corners, metres
};

template <typename T>
MeshCamera mesh_camera(const T* viewmat, const T* K, int64_t width, int64_t height, double near) {
  MeshCamera camera{{}, static_cast<int>(width), static_cast<int>(height), near};
  for (int column = 0; column < 4; ++column) {
    const double p[3] = {static_cast<double>(viewmat[column]), static_cast<double>(viewmat[4 + column]),
                         static_cast<double>(viewmat[8 + column])};
    for (int row = 0; row < 2; ++row)
      camera.rows[row][column] = K[3 * row] * p[0] + K[3 * row + 1] * p[1] + K[3 * row + 2] * p[2];
    camera.rows[2][column] = p[2];
  }
  return camera;
}

inline int32_t on_grid(double pixels) { return static_cast<int32_t>(std::lrint(pixels * MESH_SUBPIXEL)); }

template <typename T>
MeshVertex mesh_vertex(const MeshCamera& camera, const T* vert) {
  double q[3];
  for (int row = 0; row < 3; ++row) {
    const double* m = camera.rows[row];
    q[row] = m[0] * vert[0] + m[1] * vert[1] + m[2] * vert[2] + m[3];
  }
  MeshVertex vertex{{q[0], q[1], q[2]}, 0, 0, 0};
  if (!(std::isfinite(q[0]) && std::isfinite(q[1]) && std::isfinite(q[2]))) {
    vertex.beyond = MESH_BROKEN;
    return vertex;
  }
  for (int plane = 0; plane < MESH_PLANES; ++plane)
    vertex.beyond |= static_cast<uint8_t>(!(camera.distance(plane, vertex.point) >= 0)) << plane;
  if (vertex.beyond == 0) {
    vertex.x = on_grid(q[0] / q[2]);
    vertex.y = on_grid(q[1] / q[2]);
  }
  return vertex;
}

// Sutherland & Hodgman 1974 against the planes in `beyond`. A crossing is always computed from the inner to the outer
// end, so both faces of an edge get the same point. Returns the number of corners left in `polygon`.
inline int clip_face(const MeshCamera& camera, unsigned beyond, std::array<PixelPoint, 3 + MESH_PLANES>& polygon) {
  int count = 3;
  for (int plane = 0; plane < MESH_PLANES; ++plane) {
    if (!(beyond >> plane & 1)) continue;
    std::array<PixelPoint, 3 + MESH_PLANES> kept;
    int left = 0;
    for (int i = 0; i < count; ++i) {
      const PixelPoint &p = polygon[i], &q = polygon[i + 1 == count ? 0 : i + 1];
      const double dp = camera.distance(plane, p), dq = camera.distance(plane, q);
      if (dp >= 0) kept[left++] = p;
      if ((dp >= 0) != (dq >= 0)) {
        const PixelPoint &in = dp >= 0 ? p : q, &out = dp >= 0 ? q : p;
        const double d_in = std::max(dp, dq), t = d_in / (d_in - std::min(dp, dq));
        kept[left++] = {in.x + t * (out.x - in.x), in.y + t * (out.y - in.y), in.z + t * (out.z - in.z)};
      }
    }
    polygon = kept;
    count = left;
    if (count < 3) return 0;
  }
  return count;
}

inline FacePlanes face_planes(const PixelPoint& p, const PixelPoint& q, const PixelPoint& r) {
  const auto cross = [](const PixelPoint& a, const PixelPoint& b, double* out) {
    out[0] = a.y * b.z - a.z * b.y;
    out[1] = a.z * b.x - a.x * b.z;
    out[2] = a.x * b.y - a.y * b.x;
  };
  FacePlanes planes;
  cross(q, r, planes.rows[0]);
  cross(r, p, planes.rows[1]);
  cross(p, q, planes.rows[2]);
  planes.z[0] = p.z, planes.z[1] = q.z, planes.z[2] = r.z;
  const double determinant = p.x * planes.rows[0][0] + p.y * planes.rows[0][1] + p.z * planes.rows[0][2];
  const double inverse = 1.0 / determinant;
  for (auto& row : planes.rows)
    for (double& value : row) value = std::isfinite(inverse) ? value * inverse : 0.0;  // seen edge-on: no plane
  return planes;
}

// Perspective-correct weights of the corners and the depth at (u, v). The grid may put a sample a little outside the
// true triangle, so weights are cut at zero: depth then never leaves the range of the corners.
inline double weigh_corners(const FacePlanes& planes, double u, double v, double* bary) {
  double sum = 0;
  for (int k = 0; k < 3; ++k) {
    const double weight = planes.rows[k][0] * u + planes.rows[k][1] * v + planes.rows[k][2];
    bary[k] = weight > 0 ? weight : 0;
    sum += bary[k];
  }
  const double scale = 1.0 / sum;
  const bool good = sum > 0 && std::isfinite(scale);
  double depth = 0;
  for (int k = 0; k < 3; ++k) {
    bary[k] = good ? bary[k] * scale : 1.0 / 3.0;
    depth += bary[k] * planes.z[k];
  }
  return depth;
}

// Puts a triangle of grid corners into drawing order. False where it has no area or shows a back that is culled.
// Counter-clockwise from outside has negative area here, because y points down.
inline bool orient_piece(MeshPiece& piece, bool cull_backfaces) {
  const int64_t area = static_cast<int64_t>(piece.x[1] - piece.x[0]) * (piece.y[2] - piece.y[0]) -
                       static_cast<int64_t>(piece.y[1] - piece.y[0]) * (piece.x[2] - piece.x[0]);
  if (area == 0 || (cull_backfaces && area > 0)) return false;
  if (area < 0) {
    std::swap(piece.x[1], piece.x[2]);
    std::swap(piece.y[1], piece.y[2]);
  }
  return true;
}

inline bool misses_picture(const MeshPiece& piece, int width, int height) {
  const auto [x0, x1] = std::minmax({piece.x[0], piece.x[1], piece.x[2]});
  const auto [y0, y1] = std::minmax({piece.y[0], piece.y[1], piece.y[2]});
  return x1 < 0 || y1 < 0 || x0 > width * MESH_SUBPIXEL || y0 > height * MESH_SUBPIXEL;
}

// Appends the triangles that one face becomes: none, one, or several where it was clipped. False where there are none.
inline bool add_face(const MeshCamera& camera, const MeshVertex* verts, const int64_t* face, int32_t id,
                     bool cull_backfaces, std::vector<MeshPiece>& pieces, FacePlanes& planes) {
  const MeshVertex &a = verts[face[0]], &b = verts[face[1]], &c = verts[face[2]];
  const unsigned any = a.beyond | b.beyond | c.beyond, all = a.beyond & b.beyond & c.beyond;
  if (any & MESH_BROKEN || all) return false;
  MeshPiece piece{};
  piece.face = id;
  const size_t before = pieces.size();
  const auto add = [&]() {
    if (orient_piece(piece, cull_backfaces) && !misses_picture(piece, camera.width, camera.height))
      pieces.push_back(piece);
  };
  if (any == 0) {
    piece.x[0] = a.x, piece.x[1] = b.x, piece.x[2] = c.x;
    piece.y[0] = a.y, piece.y[1] = b.y, piece.y[2] = c.y;
    add();
  } else {
    std::array<PixelPoint, 3 + MESH_PLANES> polygon{a.point, b.point, c.point};
    const int count = clip_face(camera, any, polygon);
    std::array<int32_t, 3 + MESH_PLANES> x, y;
    for (int i = 0; i < count; ++i) {
      x[i] = on_grid(std::clamp(polygon[i].x / polygon[i].z, camera.left(), camera.right()));
      y[i] = on_grid(std::clamp(polygon[i].y / polygon[i].z, camera.top(), camera.bottom()));
    }
    for (int i = 2; i < count; ++i) {
      piece.x[0] = x[0], piece.x[1] = x[i - 1], piece.x[2] = x[i];
      piece.y[0] = y[0], piece.y[1] = y[i - 1], piece.y[2] = y[i];
      add();
    }
  }
  if (pieces.size() == before) return false;
  planes = face_planes(a.point, b.point, c.point);
  const auto [nearest, farthest] = std::minmax({a.point.z, b.point.z, c.point.z});
  for (size_t i = before; i < pieces.size(); ++i) {
    MeshPiece& made = pieces[i];
    made.least = static_cast<float>(1.0 / farthest);
    made.most = static_cast<float>(1.0 / std::max(nearest, camera.near));
    made.du = planes.rows[0][0] + planes.rows[1][0] + planes.rows[2][0];
    made.dv = planes.rows[0][1] + planes.rows[1][1] + planes.rows[2][1];
    made.constant = planes.rows[0][2] + planes.rows[1][2] + planes.rows[2][2];
  }
  return true;
}

// Argument checks shared by both operators. Sizes are read from verts [B, V, 3], faces [F, 3], viewmats [C, 4, 4].
inline void check_mesh(const char* op, const Tensor& verts, const Tensor& faces, const Tensor& viewmats,
                       const Tensor& Ks, int64_t width, int64_t height, double near, int64_t samples) {
  const int64_t C = viewmats.size(0);
  check(op, "verts", verts, verts.scalar_type(), {verts.size(0) == 1 ? 1 : C, -1, 3});
  check(op, "faces", faces, ScalarType::Long, {-1, 3});
  check(op, "viewmats", viewmats, verts.scalar_type(), {C, 4, 4});
  check(op, "Ks", Ks, verts.scalar_type(), {C, 3, 3});
  const std::string name(op);
  if (width < 1 || height < 1 || width > MESH_GUARD || height > MESH_GUARD)
    throw std::runtime_error(name + ": width and height must lie in 1.." + std::to_string(MESH_GUARD) +
                             " pixels, got " + std::to_string(width) + " x " + std::to_string(height));
  if (!(near > 0) || !std::isfinite(near))
    throw std::runtime_error(name + ": near must be a positive distance in metres, got " + std::to_string(near));
  if (samples != 1 && samples != MESH_SAMPLES)
    throw std::runtime_error(name + ": samples must be 1 or 16, got " + std::to_string(samples));
  const int64_t V = verts.size(1);
  const int64_t* ids = faces.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < faces.numel(); ++i)
    if (ids[i] < 0 || ids[i] >= V)
      throw std::runtime_error(name + ": face " + std::to_string(i / 3) + " names vertex " + std::to_string(ids[i]) +
                               ", but verts has V = " + std::to_string(V));
}

}  // namespace avatar
