package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
)

// The validator of the namespace "p2pe": form, key, times and signature of a record, as core/records.py checks them.
type validator struct{}

const (
	maxBytes     = 1024
	payloadBytes = 512
	slots        = 4
	maxTTL       = 24 * 3600 * 1000
	skew         = 600 * 1000
)

type record struct {
	publicKey, signature, body []byte
	slot, sequence, expires    uint64
}

// The fields of a canonical message: in rising order, each at most once, of the kinds known.
func fields(raw []byte, known int) (map[int][]byte, map[int]uint64, error) {
	texts, numbers, last := map[int][]byte{}, map[int]uint64{}, 0
	for len(raw) > 0 {
		tag, n := binary.Uvarint(raw)
		number := int(tag >> 3)
		if n <= 0 || number <= last || number > known {
			return nil, nil, errors.New("an unknown, repeated or misplaced field")
		}
		last, raw = number, raw[n:]
		value, n := binary.Uvarint(raw)
		if n <= 0 {
			return nil, nil, errors.New("a cut field")
		}
		raw = raw[n:]
		switch tag & 7 {
		case 0:
			numbers[number] = value
		case 2:
			if value > uint64(len(raw)) {
				return nil, nil, errors.New("a cut field")
			}
			texts[number], raw = raw[:value], raw[value:]
		default:
			return nil, nil, errors.New("an unexpected wire type")
		}
	}
	return texts, numbers, nil
}

func parse(raw []byte) (*record, error) {
	outer, _, err := fields(raw, 2)
	if err != nil {
		return nil, err
	}
	inner, numbers, err := fields(outer[1], 5)
	if err != nil {
		return nil, err
	}
	if len(outer[2]) != ed25519.SignatureSize || len(inner[1]) != ed25519.PublicKeySize || len(inner[5]) != payloadBytes {
		return nil, errors.New("a key, payload or signature of the wrong size")
	}
	return &record{inner[1], outer[2], outer[1], numbers[2], numbers[3], numbers[4]}, nil
}

func (validator) Validate(key string, value []byte) error {
	if len(value) > maxBytes {
		return errors.New("too large")
	}
	made, err := parse(value)
	if err != nil {
		return err
	}
	now := uint64(time.Now().UnixMilli())
	own := append(append([]byte("/p2pe/"), made.publicKey...), byte(made.slot))
	signed := append([]byte("p2pe/1 record"), made.body...)
	switch {
	case made.slot >= slots || !bytes.Equal(own, []byte(key)):
		return errors.New("under a key that isn't its own")
	case made.sequence > now+skew:
		return errors.New("made in the future")
	case made.expires <= now:
		return errors.New("expired")
	case made.expires <= made.sequence || made.expires-made.sequence > maxTTL:
		return errors.New("valid for too long")
	case !ed25519.Verify(made.publicKey, signed, made.signature):
		return errors.New("a wrong signature")
	}
	return nil
}

func (validator) Select(key string, values [][]byte) (int, error) {
	best, newest := -1, uint64(0)
	for i, value := range values {
		if made, err := parse(value); err == nil && (best < 0 || made.sequence > newest) {
			best, newest = i, made.sequence
		}
	}
	if best < 0 {
		return 0, errors.New("no record among the values")
	}
	return best, nil
}

var directory *dht.IpfsDHT

func serveKad(h host.Host, mode string) error {
	role := dht.ModeClient
	if mode == "server" {
		role = dht.ModeServer
	}
	var err error
	directory, err = dht.New(h,
		dht.ProtocolPrefix("/p2pe"), dht.Mode(role), dht.Validator(validator{}),
		dht.DisableProviders(), dht.DisableAutoRefresh(),
	)
	return err
}

func obeyKad(ctx context.Context, c command) (any, error) {
	key, _ := hex.DecodeString(c.Key)
	value, _ := hex.DecodeString(c.Value)
	switch c.Do {
	case "kadPut":
		return nil, directory.PutValue(ctx, string(key), value)
	case "kadGet":
		found, err := directory.GetValue(ctx, string(key))
		return hex.EncodeToString(found), err
	case "kadClosest":
		return directory.GetClosestPeers(ctx, string(key))
	case "kadTable":
		return directory.RoutingTable().Size(), nil
	}
	return nil, errors.New("no command " + c.Do)
}
