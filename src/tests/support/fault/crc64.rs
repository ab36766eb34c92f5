//! CRC64/NVME by tables: written apart from what gfast uses, to check it.
//!
//! NVM Command Set Specification 1.0, section 5.2.1.3: polynomial 0xAD93D23594C93659, reflected, all ones in and out.

/// The polynomial, bits reversed.
const POLYNOMIAL: u64 = 0xad93_d235_94c9_3659_u64.reverse_bits();

/// `TABLES[n][byte]`: what `byte` adds when n bytes follow it, so that eight bytes are taken at a time.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 255) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The checksum of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut value = u64::MAX;
    // Written out: as a loop it was half of what the S3 tests, which are built without optimisation, computed.
    for word in words {
        let mixed = value ^ u64::from_le_bytes(*word);
        value = TABLES[7][(mixed & 255) as usize]
            ^ TABLES[6][((mixed >> 8) & 255) as usize]
            ^ TABLES[5][((mixed >> 16) & 255) as usize]
            ^ TABLES[4][((mixed >> 24) & 255) as usize]
            ^ TABLES[3][((mixed >> 32) & 255) as usize]
            ^ TABLES[2][((mixed >> 40) & 255) as usize]
            ^ TABLES[1][((mixed >> 48) & 255) as usize]
            ^ TABLES[0][(mixed >> 56) as usize];
    }
    for byte in rest {
        value = (value >> 8) ^ TABLES[0][((value ^ u64::from(*byte)) & 255) as usize];
    }
    !value
}

/// As S3 writes it in a header: base64 of the eight bytes, most significant first.
pub fn header(value: u64) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the specification, and the same by single bits for lengths around a word.
    #[test]
    fn check_value() {
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(header(crc64(b"123456789")), "rosUhgp5mIg=");
        for len in 0..40 {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 37) as u8).collect();
            let mut value = u64::MAX;
            for byte in &bytes {
                value ^= u64::from(*byte);
                for _ in 0..8 {
                    value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
                }
            }
            assert_eq!(crc64(&bytes), !value, "{len} bytes");
        }
    }
}
