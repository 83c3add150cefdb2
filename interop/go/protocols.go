package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// What every peer serves, and the facts that ours does; the README says what each protocol is. Ping
// and identify come with the host.
const (
	abortProtocol     protocol.ID = "/interop/abort/1.0.0"
	closeProtocol     protocol.ID = "/interop/close/1.0.0"
	echoProtocol      protocol.ID = "/echo/1.0.0"
	factsProtocol     protocol.ID = "/interop/facts/1.0.0"
	halfCloseProtocol protocol.ID = "/interop/half-close/1.0.0"
	perfProtocol      protocol.ID = "/perf/1.0.0"
	reportProtocol    protocol.ID = "/interop/report/1.0.0"
	sinkProtocol      protocol.ID = "/interop/sink/1.0.0"
	slowProtocol      protocol.ID = "/interop/slow/1.0.0"
)

// Requests and answers of abortProtocol.
const (
	requestReset      = 'R'
	requestStop       = 'S'
	requestWatchReset = 'r'
	requestWatchStop  = 's'
	answerReady       = 'K'
	answerUnsupported = 'U'
)

const (
	blockBytes     = 64 << 10
	halfCloseBytes = 64 << 10
)

// remembered is what the last stream that had something to remember has seen.
var remembered struct {
	sync.Mutex
	seen result
}

func remember(seen result) {
	remembered.Lock()
	defer remembered.Unlock()
	remembered.seen = seen
}

func serve(h host.Host, ends *endings) {
	for id, handle := range map[protocol.ID]func(network.Stream) error{
		abortProtocol:     serveAbort,
		closeProtocol:     serveClose(ends),
		echoProtocol:      serveEcho,
		halfCloseProtocol: serveHalfClose,
		perfProtocol:      servePerf,
		reportProtocol:    serveReport,
		sinkProtocol:      serveSink,
		slowProtocol:      serveSlow,
	} {
		h.SetStreamHandler(id, func(s network.Stream) {
			if err := handle(s); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", id, err)
				s.Reset()
			}
		})
	}
}

func serveEcho(s network.Stream) error {
	if _, err := io.CopyBuffer(onlyWriter{s}, onlyReader{s}, make([]byte, blockBytes)); err != nil {
		return err
	}
	return s.Close()
}

func servePerf(s network.Stream) error {
	download, err := readNumber(s)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		return err
	}
	if err := writeZeros(s, int64(download)); err != nil {
		return err
	}
	return s.Close()
}

func serveAbort(s network.Stream) error {
	var request [1]byte
	if _, err := io.ReadFull(s, request[:]); err != nil {
		return err
	}
	code, err := readNumber(s)
	if err != nil {
		return err
	}
	switch request[0] {
	case requestReset, requestStop:
		// Ends both halves; there is no other way to send a code.
		return s.ResetWithError(network.StreamErrorCode(code))
	case requestWatchReset:
		remember(nil)
		if _, err := s.Write([]byte{answerReady}); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, s); err != nil {
			remember(result{"code": codeOf(err), "error": err.Error()})
		} else {
			remember(result{"eof": true})
		}
		return s.Close()
	case requestWatchStop:
		remember(nil)
		if _, err := s.Write([]byte{answerReady}); err != nil {
			return err
		}
		err := writeUntilError(s)
		remember(result{"code": codeOf(err), "error": err.Error()})
		return s.Close()
	}
	return errors.New("unknown request")
}

func serveHalfClose(s network.Stream) error {
	remember(nil)
	if err := writeZeros(s, halfCloseBytes); err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	received, err := io.Copy(io.Discard, s)
	if err != nil {
		return err
	}
	remember(result{"received": received})
	return s.Close()
}

func serveReport(s network.Stream) error {
	remembered.Lock()
	text, err := json.Marshal(remembered.seen)
	remembered.Unlock()
	if err != nil {
		return err
	}
	if _, err := s.Write(text); err != nil {
		return err
	}
	return s.Close()
}

func serveSlow(s network.Stream) error {
	delay, err := readNumber(s)
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(delay) * time.Millisecond)
	hash := sha256.New()
	if _, err := io.Copy(hash, s); err != nil {
		return err
	}
	if _, err := s.Write(hash.Sum(nil)); err != nil {
		return err
	}
	return s.Close()
}

// codeOf is the code of the RESET_STREAM or STOP_SENDING that an error comes from, or nil.
func codeOf(err error) any {
	var reset *network.StreamError
	if errors.As(err, &reset) && reset.Remote {
		return reset.ErrorCode
	}
	return nil
}

func readNumber(r io.Reader) (uint64, error) {
	var number [8]byte
	_, err := io.ReadFull(r, number[:])
	return binary.BigEndian.Uint64(number[:]), err
}

func writeZeros(w io.Writer, left int64) error {
	block := make([]byte, blockBytes)
	for left > 0 {
		length := min(left, blockBytes)
		if _, err := w.Write(block[:length]); err != nil {
			return err
		}
		left -= length
	}
	return nil
}

// writeUntilError writes a little at a time, as fast as the other peers.
func writeUntilError(w io.Writer) error {
	block := make([]byte, 1024)
	for {
		if _, err := w.Write(block); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// onlyReader and onlyWriter hide a stream's own ways to copy, so that the buffer is the one given.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }
