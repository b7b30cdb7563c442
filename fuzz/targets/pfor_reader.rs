//! A second reader of docs/pfor.md, bit by bit, which shares nothing with the first.

/// The `n` words of a chunk, as integers; `None` where it is broken. `size`: bytes of a word.
pub fn decode(chunk: &[u8], n: usize, size: usize, float: bool, delta: bool) -> Option<Vec<u64>> {
    let head = 2 * n.div_ceil(512);
    checked(chunk.get(..head + 4)?)?;
    let (mut at, mut values) = (head + 4, Vec::new());
    for block in 0..n.div_ceil(512) {
        let length = usize::from(chunk[2 * block]) + 256 * usize::from(chunk[2 * block + 1]);
        let here = 512.min(n - 512 * block);
        let mut body = checked(chunk.get(at..at + length)?)?;
        at += length;
        if !float {
            values.extend(words(body, here, size, delta)?);
            continue;
        }
        let distinct = integer(take(&mut body, 2)?) as usize;
        let n_words = if distinct == 0 { here } else { distinct };
        let table: Vec<u64> = take(&mut body, n_words * size)?.chunks(size).map(integer).collect();
        if distinct == 0 {
            values.extend(table);
        } else {
            for place in words(body, here, 2, false)? {
                values.push(*table.get(place as usize)?);
            }
        }
    }
    (at == chunk.len()).then_some(values)
}

fn words(mut frames: &[u8], n: usize, size: usize, delta: bool) -> Option<Vec<u64>> {
    let mut out = Vec::new();
    for _ in 0..n.div_ceil(256) {
        if frames.first() == Some(&255) {
            take(&mut frames, 1)?;
            out.extend(take(&mut frames, 256 * size)?.chunks(size).map(integer));
            continue;
        }
        let numbers = unpack(&mut frames, if size <= 2 { 16 } else { 32 })?;
        let reference = integer(take(&mut frames, size)?);
        let mut sum = 0_u64;
        for number in numbers {
            sum = if delta { sum.wrapping_add(number) } else { number };
            out.push(reference.wrapping_add(sum) & (u64::MAX >> (64 - 8 * size)));
        }
    }
    out.truncate(n);
    Some(out)
}

fn unpack(frames: &mut &[u8], most: usize) -> Option<Vec<u64>> {
    let head = take(frames, 3)?;
    let (w, p, h) = (usize::from(head[0]), usize::from(head[1]), usize::from(head[2]));
    if w > most || h > most || (p == 0) != (h == 0) || (p > 0 && w + h > most) {
        return None;
    }
    let packed = take(frames, 32 * w)?;
    let positions = take(frames, p)?;
    let patches = take(frames, (p * h).div_ceil(8))?;
    let mut numbers = vec![0; 256];
    for (i, number) in numbers.iter_mut().enumerate() {
        for b in 0..w {
            let lanes = 256 / most;
            let in_lane = i / lanes * w + b;
            // The lane's unit, among those of all lanes, then the bit in it.
            *number |= bit(packed, most * (lanes * (in_lane / most) + i % lanes) + in_lane % most) << b;
        }
    }
    if positions.windows(2).any(|pair| pair[0] >= pair[1]) {
        return None;
    }
    for (k, &position) in positions.iter().enumerate() {
        for b in 0..h {
            numbers[usize::from(position)] |= bit(patches, k * h + b) << (w + b);
        }
    }
    Some(numbers)
}

fn bit(bytes: &[u8], at: usize) -> u64 {
    u64::from(bytes[at / 8] >> (at % 8) & 1)
}

fn integer(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(taken)
}

fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    (u64::from(crc(body)) == integer(checksum)).then_some(body)
}

/// CRC-32C, bit by bit.
pub fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}
