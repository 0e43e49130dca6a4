//! Cylinders, heads, sectors: what a footer says about a disk's shape. Never the disk's size (vhd.md of old tools aside).

/// A disk geometry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chs {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads per cylinder.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

impl Chs {
    /// The largest geometry; many writers put it in to say "use the current size".
    pub const MAX: Self = Self {
        cylinders: 65535,
        heads: 16,
        sectors: 255,
    };

    /// The geometry that the specification's appendix computes for a disk of `sectors`; mostly a little smaller.
    pub fn for_sectors(sectors: u64) -> Self {
        let total = sectors.min(Self::MAX.total_sectors());
        let (spt, heads, cylinders_times_heads) = Self::shape(total);
        let narrow = |value: u64| u8::try_from(value).expect("heads and sectors per track are at most 255");
        Self {
            cylinders: u16::try_from(cylinders_times_heads / heads).expect("at most 65535 cylinders: total is clamped"),
            heads: narrow(heads),
            sectors: narrow(spt),
        }
    }

    /// Sectors per track, heads, and cylinders times heads.
    fn shape(total: u64) -> (u64, u64, u64) {
        if total >= 65535 * 16 * 63 {
            return (255, 16, total / 255);
        }
        let mut shape = (17, (total / 17).div_ceil(1024).max(4), total / 17);
        if shape.2 >= shape.1 * 1024 || shape.1 > 16 {
            shape = (31, 16, total / 31);
        }
        if shape.2 >= shape.1 * 1024 {
            shape = (63, 16, total / 63);
        }
        shape
    }

    /// Cylinders × heads × sectors per track.
    pub fn total_sectors(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        let text = |bytes: u64| {
            let chs = Chs::for_sectors(bytes / 512);
            format!("{}/{}/{}", chs.cylinders, chs.heads, chs.sectors)
        };
        assert_eq!(text(0), "0/4/17");
        assert_eq!(text(40 << 20), "963/5/17");
        assert_eq!(text(1 << 30), "2080/16/63");
        assert_eq!(text(2040 << 30), "65535/16/255");
        assert_eq!(text(u64::MAX), "65535/16/255");
    }

    #[test]
    fn a_geometry_is_never_larger_than_its_disk() {
        for shift in 0..40 {
            for near in [-1i64, 0, 1, 17, 62] {
                let sectors = (1i64 << shift).saturating_add(near).max(0).unsigned_abs();
                assert!(Chs::for_sectors(sectors).total_sectors() <= sectors, "{sectors}");
            }
        }
    }
}
