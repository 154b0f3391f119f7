package bulwark

import "fmt"

// Size names the limits of an instance, as "bulwark ps resize web=large" does.
type Size string

// Limits are what an instance may use.
type Limits struct {
	Memory int64 // bytes, swap included
	CPU    int64 // thousandths of a core
	PIDs   int64 // threads count
}

// The sizes. SizeSmall is the default.
const (
	SizeTiny   Size = "tiny"
	SizeSmall  Size = "small"
	SizeMedium Size = "medium"
	SizeLarge  Size = "large"
)

// Limits returns what the size allows; the zero Size is SizeSmall.
func (s Size) Limits() Limits {
	switch s {
	case SizeTiny:
		return Limits{Memory: 256 << 20, CPU: 500, PIDs: 256}
	case SizeMedium:
		return Limits{Memory: 1 << 30, CPU: 2000, PIDs: 1024}
	case SizeLarge:
		return Limits{Memory: 2 << 30, CPU: 4000, PIDs: 2048}
	default:
		return Limits{Memory: 512 << 20, CPU: 1000, PIDs: 512}
	}
}

// ParseSize checks s.
func ParseSize(s string) (Size, error) {
	switch z := Size(s); z {
	case SizeTiny, SizeSmall, SizeMedium, SizeLarge:
		return z, nil
	}
	return "", Invalid(fmt.Sprintf("There is no size %s.", quote(s)), "The sizes are tiny, small, medium and large.")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseSize.
func (s *Size) UnmarshalText(b []byte) error { return parseInto(s, b, ParseSize) }
