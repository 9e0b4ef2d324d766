#include "cpu/mesh_tile.h"

namespace avatar {

void draw_tile_avx2(const MeshPiece* const* pieces, int64_t count, int tile_x, int tile_y, int columns, int rows,
                    bool sampled, MeshTile& tile) {
  draw_tile(pieces, count, tile_x, tile_y, columns, rows, sampled, tile);
}

}  // namespace avatar
