// Receives webhooks and verifies them: go run ./receive
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func verify(secret string, header http.Header, body []byte) bool {
	second, err := strconv.ParseInt(header.Get("webhook-timestamp"), 10, 64)
	if err != nil || math.Abs(float64(time.Now().Unix()-second)) > 300 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.", header.Get("webhook-id"), second)
	mac.Write(body)
	expected := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, given := range strings.Split(header.Get("webhook-signature"), " ") {
		if hmac.Equal([]byte(given), []byte(expected)) {
			return true
		}
	}
	return false
}

const maxBodyBytes = 1 << 20

var seen sync.Map // in earnest: a table of the last days' ids

func main() {
	secret := os.Getenv("ASKWHEN_WEBHOOK_SECRET")
	port := os.Getenv("PORT")
	if port == "" {
		port = "9000"
	}
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, maxBodyBytes))
		if err != nil {
			answer.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		if !verify(secret, request.Header, body) {
			answer.WriteHeader(http.StatusUnauthorized)
			return
		}
		answer.WriteHeader(http.StatusNoContent)
		if _, known := seen.LoadOrStore(request.Header.Get("webhook-id"), true); known {
			return
		}
		var message struct {
			Type string
			Data struct {
				User string `json:"user_id"`
			}
		}
		if err := json.Unmarshal(body, &message); err != nil {
			log.Print(err)
			return
		}
		fmt.Println("verified", message.Type, message.Data.User)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}
